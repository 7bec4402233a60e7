#include "kernels/product.h"

#include <algorithm>

#include "kernels/list.h"

namespace nibble {

const SolveKernels& solve_kernels(Isa isa) {
  for (const IsaTable& entry : all_tables())
    if (entry.isa <= isa && entry.table->solve != nullptr) return *entry.table->solve;
  return *kReferenceKernels.solve;
}

const SolveKernels& solve_kernels() {
  static const SolveKernels& kernels = solve_kernels(selected_isa().value_or(Isa::portable));
  return kernels;
}

template <>
const ProductTile<float>& tile_of(const SolveKernels& kernels) {
  return kernels.f32;
}

template <>
const ProductTile<double>& tile_of(const SolveKernels& kernels) {
  return kernels.f64;
}

namespace {

// A tile that reaches beyond c.
template <class T>
void add_edge(const ProductTile<T>& tile, ProductArgs<T> args, int64_t rows, int64_t columns) {
  alignas(64) T room[kMostTile] = {};
  T* const c = args.c;
  const int64_t stride = args.c_stride;
  for (int64_t i = 0; i < rows; ++i) std::copy_n(c + i * stride, columns, room + i * tile.columns);
  args.c = room;
  args.c_stride = tile.columns;
  tile.multiply(args);
  for (int64_t i = 0; i < rows; ++i) std::copy_n(room + i * tile.columns, columns, c + i * stride);
}

}  // namespace

template <class T>
void add_product(const ProductTile<T>& tile, const PackedLeft<T>& left, const T* right, int64_t right_stride, T* c,
                 int64_t c_stride, int64_t rows, int64_t columns, int64_t depth) {
  for (int64_t k = 0; k < depth; k += kProductRun) {
    const int64_t run = std::min(kProductRun, depth - k);
    for (int64_t j = 0; j < columns; j += tile.columns) {
      const T* const b = right + j / tile.columns * right_stride + k * tile.columns;
      for (int64_t i = 0; i < rows; i += tile.rows) {
        const T* const a = left.tile(i / tile.rows, tile.rows) + k * left.step;
        const ProductArgs<T> args{a, left.step, b, c + i * c_stride + j, c_stride, run};
        if (i + tile.rows <= rows && j + tile.columns <= columns) {
          tile.multiply(args);
        } else {
          add_edge(tile, args, std::min(tile.rows, rows - i), std::min(tile.columns, columns - j));
        }
      }
    }
  }
}

template void add_product(const ProductTile<float>&, const PackedLeft<float>&, const float*, int64_t, float*, int64_t,
                          int64_t, int64_t, int64_t);
template void add_product(const ProductTile<double>&, const PackedLeft<double>&, const double*, int64_t, double*,
                          int64_t, int64_t, int64_t, int64_t);

}  // namespace nibble
