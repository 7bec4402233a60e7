#include "quantize/solve/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/product.h"

namespace nibble {
namespace {

constexpr int64_t kBlock = 192;  // rows and columns of a block; whole tiles of every instruction set but the reference
constexpr int64_t kArea = kBlock * kBlock;

// The triangle is cut into blocks from its beginning. R is found from the last column of blocks to the first, because
// h = R R' says of the blocks above the diagonal
//   h_IJ = R_IJ R_JJ' + sum over K > J of R_IK R_JK'
// and U = inverse(R) from the first to the last,  U_IJ = -(sum over K in [I, J) of U_IK R_KJ) U_JJ. Both are products
// of blocks and of little ones on the diagonal; the diagonal holds U_JJ from the beginning.
class Factorisation {
 public:
  Factorisation(Triangle& h, ThreadPool& pool)
      : h_(h),
        n_(h.width()),
        blocks_(ceil_div(n_, kBlock)),
        pool_(pool),
        right_(right_size(tile_, kBlock, n_)),
        small_(right_size(tile_, kBlock, kBlock)),
        diagonal_(kArea),
        scratch_(pool.size() * thread_values()) {}

  static int64_t thread_values() { return kArea + left_size(solve_kernels().f64, kBlock, kBlock); }

  bool run() {
    for (int64_t j = blocks_ - 1; j >= 0; --j)
      if (!factor_column(j)) return false;
    for (int64_t j = 1; j < blocks_; ++j) invert_column(j);
    return true;
  }

 private:
  int64_t begin(int64_t block) const { return block * kBlock; }
  int64_t size(int64_t block) const { return std::min(kBlock, n_ - begin(block)); }
  double* room(int thread) { return scratch_.data() + thread * thread_values(); }
  double* left_room(int thread) { return room(thread) + kArea; }

  void load(int64_t i, int64_t j, double* to) const {
    for (int64_t r = 0; r < size(i); ++r) {
      const int64_t from = i == j ? r : 0;
      std::copy_n(h_.row(begin(i) + r) + begin(j) + from, size(j) - from, to + r * kBlock + from);
    }
  }

  void save(int64_t i, int64_t j, const double* from) {
    for (int64_t r = 0; r < size(i); ++r) {
      const int64_t first = i == j ? r : 0;
      std::copy_n(from + r * kBlock + first, size(j) - first, h_.row(begin(i) + r) + begin(j) + first);
    }
  }

  // c += sign * (rows of block row i, columns of block column k) times the right factor from `k_in_right` on. Below
  // the diagonal there are zeros.
  void multiply(int64_t i, int64_t k, double sign, const double* right, int64_t right_depth, double* c, int64_t columns,
                int thread) {
    double* const left = left_room(thread);
    const int64_t rows = size(i), depth = size(k);
    pack_left(
        tile_, rows, depth, sign, [&](int64_t r) { return h_.row(begin(i) + r) + begin(k); }, left);
    if (i == k)
      for (int64_t r = 1; r < rows; ++r)
        for (int64_t below = 0; below < r; ++below)
          left[r / tile_.rows * tile_.rows * depth + below * tile_.rows + r % tile_.rows] = 0;
    add_product(tile_, PackedLeft<double>::of(left, depth, tile_), right, right_depth * tile_.columns, c, kBlock, rows,
                columns, depth);
  }

  // R_JK' for all K > J, as the right factor of what is subtracted from column J.
  void pack_transposed_row(int64_t j) {
    const int64_t depth = n_ - begin(j + 1);
    pool_.run(blocks_ - j - 1, [&](int64_t task) {
      const int64_t at = begin(j + 1 + task), count = size(j + 1 + task);
      double* const to = right_.data() + (at - begin(j + 1)) * tile_.columns;
      for (int64_t c = 0; c < round_up(size(j), tile_.columns); ++c) {
        double* const column = to + c / tile_.columns * tile_.columns * depth + c % tile_.columns;
        const double* const row = c < size(j) ? h_.row(begin(j) + c) + at : nullptr;
        for (int64_t k = 0; k < count; ++k) column[k * tile_.columns] = row == nullptr ? 0 : row[k];
      }
    });
  }

  bool factor_column(int64_t j) {
    const int64_t depth = n_ - begin(j) - size(j);
    if (depth > 0) {
      pack_transposed_row(j);
      pool_.run_by_thread(j + 1, [&](int64_t i, int thread) {
        double* const c = room(thread);
        load(i, j, c);
        for (int64_t k = j + 1; k < blocks_; ++k)
          multiply(i, k, -1, right_.data() + (begin(k) - begin(j + 1)) * tile_.columns, depth, c, size(j), thread);
        save(i, j, c);
      });
    }
    if (!factor_diagonal(j)) return false;
    // R_IJ = h_IJ inverse(R_JJ)'
    const int64_t width = size(j);
    for (int64_t c = 0; c < round_up(width, tile_.columns); ++c)
      for (int64_t k = 0; k < width; ++k)
        small_[c / tile_.columns * tile_.columns * width + k * tile_.columns + c % tile_.columns] =
            c < width && c <= k ? diagonal_[c * kBlock + k] : 0;
    multiply_column(j, 1);
    return true;
  }

  // Every block above the diagonal of column j, times small_.
  void multiply_column(int64_t j, double sign) {
    pool_.run_by_thread(j, [&](int64_t i, int thread) {
      double* const c = room(thread);
      std::fill_n(c, kArea, 0.0);
      multiply(i, j, sign, small_.data(), size(j), c, size(j), thread);
      save(i, j, c);
    });
  }

  // diagonal_ = U_JJ = inverse(R_JJ), which takes the place of h_JJ.
  bool factor_diagonal(int64_t j) {
    const int64_t width = size(j);
    std::vector<double> r(static_cast<size_t>(kArea));
    load(j, j, r.data());
    if (!factor(r.data(), width)) return false;
    std::fill_n(diagonal_.data(), kArea, 0.0);
    invert(r.data(), width, diagonal_.data());
    save(j, j, diagonal_.data());
    return true;
  }

  // In place: the upper triangle of h becomes R.
  static bool factor(double* h, int64_t width) {
    std::vector<double> column(static_cast<size_t>(width));
    for (int64_t j = width - 1; j >= 0; --j) {
      const double pivot = h[j * kBlock + j];
      if (!(pivot > 0) || !std::isfinite(pivot)) return false;
      const double root = std::sqrt(pivot);
      h[j * kBlock + j] = root;
      for (int64_t i = 0; i < j; ++i) column[static_cast<size_t>(i)] = h[i * kBlock + j] /= root;
      for (int64_t i = 0; i < j; ++i) {
        const double factor = column[static_cast<size_t>(i)];
        double* const row = h + i * kBlock;
        for (int64_t k = i; k < j; ++k) row[k] -= factor * column[static_cast<size_t>(k)];
      }
    }
    return true;
  }

  static void invert(const double* r, int64_t width, double* out) {
    for (int64_t i = width - 1; i >= 0; --i) {
      double* const row = out + i * kBlock;
      for (int64_t k = i + 1; k < width; ++k) {
        const double factor = r[i * kBlock + k];
        const double* const below = out + k * kBlock;
        for (int64_t j = k; j < width; ++j) row[j] -= factor * below[j];
      }
      const double scale = 1 / r[i * kBlock + i];
      for (int64_t j = i + 1; j < width; ++j) row[j] *= scale;
      row[i] = scale;
    }
  }

  void invert_column(int64_t j) {
    const int64_t width = size(j), depth = begin(j);
    load(j, j, diagonal_.data());
    for (int64_t r = 1; r < width; ++r) std::fill_n(diagonal_.data() + r * kBlock, r, 0.0);
    pack_right(
        tile_, width, width, width, [&](int64_t k) { return diagonal_.data() + k * kBlock; }, small_.data());
    multiply_column(j, -1);
    pool_.run(j, [&](int64_t k) {
      pack_right(
          tile_, width, kBlock, depth, [&](int64_t r) { return h_.row(begin(k) + r) + begin(j); },
          right_.data() + begin(k) * tile_.columns);
    });
    pool_.run_by_thread(j, [&](int64_t i, int thread) {
      double* const c = room(thread);
      std::fill_n(c, kArea, 0.0);
      for (int64_t k = i; k < j; ++k)
        multiply(i, k, 1, right_.data() + begin(k) * tile_.columns, depth, c, width, thread);
      save(i, j, c);
    });
  }

  Triangle& h_;
  const ProductTile<double>& tile_ = solve_kernels().f64;
  int64_t n_, blocks_;
  ThreadPool& pool_;
  AlignedBuffer<double> right_;     // a column of blocks, packed
  AlignedBuffer<double> small_;     // a block of the diagonal, packed
  AlignedBuffer<double> diagonal_;  // and as it is
  AlignedBuffer<double> scratch_;   // by thread: a block, and one packed
};

}  // namespace

bool upper_factor_of_inverse(Triangle& h, ThreadPool& pool) { return Factorisation(h, pool).run(); }

int64_t factor_scratch_bytes(int64_t n, int threads) {
  const int64_t values =
      right_size(solve_kernels().f64, kBlock, n + kBlock) + kArea + threads * Factorisation::thread_values();
  return values * static_cast<int64_t>(sizeof(double));
}

}  // namespace nibble
