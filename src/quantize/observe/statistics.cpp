#include "quantize/observe/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/checked.h"
#include "quantize/solve/product.h"

namespace nibble {
namespace {

constexpr int64_t kTile = 64;

// Adds x_i' x_j of one run for a tile of columns.
void add_tile(Strided<const float> x, int64_t count, int64_t i, int64_t j, int64_t width, double* sums) {
  const int64_t rows = std::min(kTile, width - i), columns = std::min(kTile, width - j);
  std::array<float, kTile * kTile> tile{};
  const Strided<const float> left{x.data + i, 1, x.row};
  add_product(Strided<float>{tile.data(), kTile, 1}, left, x.shifted(0, j), rows, columns, count, 1.0f);
  for (int64_t a = 0; a < rows; ++a)
    for (int64_t b = 0; b < columns; ++b)
      sums[(i + a) * width + j + b] += static_cast<double>(tile[static_cast<size_t>(a * kTile + b)]);
}

}  // namespace

void Gram::add(const float* x, int64_t count, ThreadPool& pool) {
  const int64_t tiles = ceil_div(width_, kTile);
  pool.run(tiles * tiles, [&](int64_t task) {
    const int64_t row = task / tiles, column = task % tiles;
    if (column < row) return;
    for (int64_t m = 0; m < count; m += kGramRun)
      add_tile({x + m * width_, width_, 1}, std::min(kGramRun, count - m), row * kTile, column * kTile, width_,
               sums_.data());
  });
  tokens_ += count;
}

void Gram::mirror() {
  for (int64_t i = 0; i < width_; ++i)
    for (int64_t j = i + 1; j < width_; ++j) sums_[j * width_ + i] = sums_[i * width_ + j];
}

Status observe_absmax(const float* x, int64_t count, std::vector<float>& absmax, std::string_view site,
                      ThreadPool& pool) {
  const auto width = static_cast<int64_t>(absmax.size());
  constexpr int64_t kColumns = 64;
  pool.run(ceil_div(width, kColumns), [&](int64_t task) {
    const int64_t begin = task * kColumns, end = std::min(width, begin + kColumns);
    for (int64_t m = 0; m < count; ++m)
      for (int64_t k = begin; k < end; ++k) {
        const float size = std::fabs(x[m * width + k]);
        float& most = absmax[static_cast<size_t>(k)];
        most = size <= most ? most : size;  // NaN replaces the maximum
        if (std::isnan(most)) return;
      }
  });
  for (int64_t k = 0; k < width; ++k)
    if (!std::isfinite(absmax[static_cast<size_t>(k)]))
      return fail(ErrorCode::failure, "input of {}: channel {} is NaN or infinite on the calibration text", site, k);
  return {};
}

}  // namespace nibble
