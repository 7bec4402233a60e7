#include "quantize/solve/error.h"

#include <algorithm>
#include <numeric>

#include "core/checked.h"
#include "quantize/solve/product.h"

namespace nibble {
namespace {

// Sums of tasks are added in order, whoever ran them.
template <class Task>
double sum_tasks(int64_t count, ThreadPool& pool, const Task& task) {
  std::vector<double> parts(static_cast<size_t>(count));
  pool.run(count, [&](int64_t i) { parts[static_cast<size_t>(i)] = task(i); });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

// sum over rows of v G v' for rows v [count][k]. G is symmetric: what lies above a tile of its diagonal counts twice.
double energy(const std::vector<double>& rows, int64_t count, const Gram& gram) {
  constexpr int64_t kTile = 64;
  const int64_t k = gram.width();
  const Strided<const double> v{rows.data(), k, 1}, g{gram.data(), k, 1};
  std::vector<double> above(static_cast<size_t>(count * kTile)), diagonal(above.size());
  double sum = 0;
  for (int64_t begin = 0; begin < k; begin += kTile) {
    const int64_t width = std::min(kTile, k - begin);
    std::fill(above.begin(), above.end(), 0.0);
    std::fill(diagonal.begin(), diagonal.end(), 0.0);
    add_product<double>({above.data(), kTile, 1}, v, g.shifted(0, begin), count, width, begin, 1);
    add_product<double>({diagonal.data(), kTile, 1}, v.shifted(0, begin), g.shifted(begin, begin), count, width, width,
                        1);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < width; ++j) {
        const auto at = static_cast<size_t>(i * kTile + j);
        sum += v.at(i, begin + j) * (2 * above[at] + diagonal[at]);
      }
  }
  return sum;
}

// Row n of W, or of W - W'.
void append_row(const FloatLayer& layer, const LinearWeight* solved, int64_t n, std::vector<double>& out) {
  std::vector<float> effective(static_cast<size_t>(layer.columns));
  if (solved != nullptr) decode_row(*solved, n, effective);
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

double output_energy(const FloatLayer& layer, const LinearWeight* solved, const Gram& gram, ThreadPool& pool) {
  constexpr int64_t kRows = 32;
  const int64_t measured = std::min(layer.rows, kErrorRows);
  return sum_tasks(ceil_div(measured, kRows), pool, [&](int64_t task) {
    const int64_t begin = task * kRows, count = std::min(kRows, measured - begin);
    std::vector<double> rows;
    for (int64_t i = begin; i < begin + count; ++i) append_row(layer, solved, i * layer.rows / measured, rows);
    return energy(rows, count, gram);
  });
}

double output_error(const FloatLayer& layer, const LinearWeight& solved, double whole, const Gram& gram,
                    ThreadPool& pool) {
  return whole > 0 ? output_energy(layer, &solved, gram, pool) / whole : 0;
}

}  // namespace nibble
