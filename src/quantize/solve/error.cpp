#include "quantize/solve/error.h"

#include <algorithm>
#include <numeric>

#include "core/checked.h"
#include "kernels/product.h"

namespace nibble {
namespace {

// Sums of tasks are added in order, whoever ran them.
template <class Task>
double sum_tasks(int64_t count, ThreadPool& pool, const Task& task) {
  std::vector<double> parts(static_cast<size_t>(count));
  pool.run(count, [&](int64_t i) { parts[static_cast<size_t>(i)] = task(i); });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

constexpr int64_t kStrip = 96;  // columns of G that are multiplied at a time
constexpr int64_t kRun = 256;   // and rows of it

// Part of v G v', summed over rows v [rows][k]: that of columns [begin, begin + kStrip) of the symmetric G. What lies
// above the strip's diagonal block counts twice.
class Strip {
 public:
  Strip(const Gram& gram, int64_t begin)
      : gram_(gram),
        begin_(begin),
        width_(std::min(kStrip, gram.width() - begin)),
        right_(right_size(tile_, kStrip, kRun)) {}

  double energy(const PackedLeft<double>& left, int64_t rows) {
    AlignedBuffer<double> product(rows * kStrip);
    for (int64_t k = 0; k < begin_; k += kRun) {
      const int64_t depth = std::min(kRun, begin_ - k);
      pack_right(
          tile_, width_, depth, depth, [&](int64_t i) { return gram_.sums().row(k + i) + begin_; }, right_.data());
      add(left, k, depth, rows, product);
    }
    for (int64_t i = 0; i < product.size(); ++i) product[i] *= 2;
    std::vector<double> square(static_cast<size_t>(width_ * width_));
    for (int64_t i = 0; i < width_; ++i)
      for (int64_t j = 0; j < width_; ++j)
        square[static_cast<size_t>(i * width_ + j)] = gram_.at(begin_ + i, begin_ + j);
    pack_right(
        tile_, width_, width_, width_, [&](int64_t i) { return square.data() + i * width_; }, right_.data());
    add(left, begin_, width_, rows, product);
    double sum = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const double* const v = left.tile(i / tile_.rows, tile_.rows) + begin_ * tile_.rows + i % tile_.rows;
      for (int64_t j = 0; j < width_; ++j) sum += v[j * tile_.rows] * product[i * kStrip + j];
    }
    return sum;
  }

 private:
  void add(PackedLeft<double> left, int64_t k, int64_t depth, int64_t rows, AlignedBuffer<double>& product) const {
    left.data += k * tile_.rows;
    add_product(tile_, left, right_.data(), depth * tile_.columns, product.data(), kStrip, rows, width_, depth);
  }

  const Gram& gram_;
  const ProductTile<double>& tile_ = solve_kernels().f64;
  int64_t begin_, width_;
  AlignedBuffer<double> right_;  // a piece of G, packed
};

// Row n of W, or of W - W'.
void append_row(const FloatLayer& layer, const LinearWeight* solved, int64_t n, std::vector<double>& out) {
  std::vector<float> effective(static_cast<size_t>(layer.columns));
  if (solved != nullptr) decode_stored(*solved, n, effective);
  const auto original = layer.row(n);
  for (size_t k = 0; k < effective.size(); ++k)
    out.push_back(static_cast<double>(original[k]) - static_cast<double>(effective[k]));
}

}  // namespace

double weight_error(const FloatLayer& layer, const LinearWeight& solved, ThreadPool& pool) {
  constexpr int64_t kRows = 16;
  const auto energy_of = [&](const LinearWeight* other) {
    return sum_tasks(ceil_div(layer.rows, kRows), pool, [&](int64_t task) {
      std::vector<double> rows;
      for (int64_t n = task * kRows; n < std::min(layer.rows, (task + 1) * kRows); ++n)
        append_row(layer, other, n, rows);
      return std::inner_product(rows.begin(), rows.end(), rows.begin(), 0.0);
    });
  };
  const double whole = energy_of(nullptr);
  return whole > 0 ? energy_of(&solved) / whole : 0;
}

int64_t energy_scratch_bytes(int64_t columns, int threads) {
  const int64_t packed = left_size(solve_kernels().f64, kErrorRows, columns);
  const int64_t strip = kErrorRows * kStrip + right_size(solve_kernels().f64, kStrip, kRun);
  return (packed + threads * (strip + 64 * columns)) * static_cast<int64_t>(sizeof(double));
}

double output_energy(const FloatLayer& layer, const LinearWeight* solved, const Gram& gram, ThreadPool& pool) {
  const ProductTile<double>& tile = solve_kernels().f64;
  const int64_t measured = std::min(layer.rows, kErrorRows), k = gram.width();
  AlignedBuffer<double> packed(left_size(tile, measured, k));
  pool.run_ranges(measured, tile.rows, [&](int64_t begin, int64_t end) {
    std::vector<double> rows;
    for (int64_t i = begin; i < end; ++i) append_row(layer, solved, i * layer.rows / measured, rows);
    pack_left(
        tile, end - begin, k, 1.0, [&](int64_t i) { return rows.data() + i * k; }, packed.data() + begin * k);
  });
  return sum_tasks(ceil_div(k, kStrip), pool, [&](int64_t task) {
    return Strip(gram, task * kStrip).energy(PackedLeft<double>::of(packed.data(), k, tile), measured);
  });
}

double output_error(const FloatLayer& layer, const LinearWeight& solved, double whole, const Gram& gram,
                    ThreadPool& pool) {
  return whole > 0 ? output_energy(layer, &solved, gram, pool) / whole : 0;
}

}  // namespace nibble
