// Products of matrices for solvers, above the tiles of kernels/abi/solve.h: c += a b where every element receives its
// products one by one in ascending k, each fused with its addition. So results depend neither on threads nor on how a
// product is cut nor on the instruction set.
//
// Both factors are packed first, by whoever knows what will be read again:
//   left   [tile of R rows][k][R], zeros for rows that do not exist
//   right  [panel of C columns][k][C], zeros for columns that do not exist
// Single-threaded; callers share out tasks.
#pragma once

#include <cstdint>
#include <span>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/cpu.h"
#include "kernels/abi/solve.h"

namespace nibble {

// The kernels that `isa` runs, and those of this process: which ones makes no difference but speed.
const SolveKernels& solve_kernels(Isa isa);
const SolveKernels& solve_kernels();

template <class T>
const ProductTile<T>& tile_of(const SolveKernels& kernels);

// A run of k that is multiplied at a time: a panel of the right factor stays in the first cache meanwhile.
inline constexpr int64_t kProductRun = 128;

// Where a packed factor lies. A left factor may be a right one read from the other side (Gram matrices).
template <class T>
struct PackedLeft {
  const T* data;
  int64_t step, group_stride, group;  // tile t at data + t / group * group_stride + t % group * R, k `step` apart

  // Rows that pack_left() packed for `depth`.
  static PackedLeft of(const T* data, int64_t depth, const ProductTile<T>& tile) {
    return {data, tile.rows, depth * tile.rows, 1};
  }
  static PackedLeft of_right(const T* data, int64_t depth, const ProductTile<T>& tile) {
    return {data, tile.columns, depth * tile.columns, tile.columns / tile.rows};
  }
  const T* tile(int64_t t, int64_t rows) const { return data + t / group * group_stride + t % group * rows; }
};

template <class T>
int64_t left_size(const ProductTile<T>& tile, int64_t rows, int64_t depth) {
  return round_up(rows, tile.rows) * depth;
}
template <class T>
int64_t right_size(const ProductTile<T>& tile, int64_t columns, int64_t depth) {
  return round_up(columns, tile.columns) * depth;
}

// out = sign * a for `rows` rows that begin at row(i), `depth` values each. `row` gives a const T*.
template <class T, class Row>
void pack_left(const ProductTile<T>& tile, int64_t rows, int64_t depth, T sign, const Row& row, T* out);
// b for `depth` rows that begin at row(k), `columns` values each; panels are `panel_depth` k apart, of which this packs
// those from out on.
template <class T, class Row>
void pack_right(const ProductTile<T>& tile, int64_t columns, int64_t depth, int64_t panel_depth, const Row& row,
                T* out);

// c [rows][c_stride] += a b over `depth` k. `right_stride`: values from panel to panel.
template <class T>
void add_product(const ProductTile<T>& tile, const PackedLeft<T>& left, const T* right, int64_t right_stride, T* c,
                 int64_t c_stride, int64_t rows, int64_t columns, int64_t depth);

template <class T, class Row>
void pack_left(const ProductTile<T>& tile, int64_t rows, int64_t depth, T sign, const Row& row, T* out) {
  for (int64_t begin = 0; begin < rows; begin += tile.rows, out += tile.rows * depth) {
    const int64_t count = rows - begin < tile.rows ? rows - begin : tile.rows;
    for (int64_t i = 0; i < tile.rows; ++i) {
      T* to = out + i;
      if (i >= count) {
        for (int64_t k = 0; k < depth; ++k) to[k * tile.rows] = 0;
        continue;
      }
      const T* const from = row(begin + i);
      for (int64_t k = 0; k < depth; ++k) to[k * tile.rows] = sign * from[k];
    }
  }
}

template <class T, class Row>
void pack_right(const ProductTile<T>& tile, int64_t columns, int64_t depth, int64_t panel_depth, const Row& row,
                T* out) {
  for (int64_t k = 0; k < depth; ++k) {
    const T* const from = row(k);
    for (int64_t begin = 0; begin < columns; begin += tile.columns) {
      T* const to = out + begin * panel_depth + k * tile.columns;
      const int64_t count = columns - begin < tile.columns ? columns - begin : tile.columns;
      for (int64_t j = 0; j < count; ++j) to[j] = from[begin + j];
      for (int64_t j = count; j < tile.columns; ++j) to[j] = 0;
    }
  }
}

}  // namespace nibble
