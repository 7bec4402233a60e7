#include "quantize/pipeline/run_error.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace nibble {
namespace {

// Sums over the outputs of one row, or over rows.
struct Sums {
  double original = 0, quantized = 0, product = 0, difference = 0;

  void add(const Sums& other) {
    original += other.original;
    quantized += other.quantized;
    product += other.product;
    difference += other.difference;
  }
};

Sums sums_of(std::span<const float> original, std::span<const float> quantized, std::span<const float> bias) {
  Sums sums;
  for (size_t n = 0; n < original.size(); ++n) {
    const double always = bias.empty() ? 0 : static_cast<double>(bias[n]);
    const double a = static_cast<double>(original[n]) - always, b = static_cast<double>(quantized[n]) - always;
    sums.original += a * a;
    sums.quantized += b * b;
    sums.product += a * b;
    sums.difference += (a - b) * (a - b);
  }
  return sums;
}

void apply(const PackedLinear& layer, const float* x, int64_t count, Isa isa, PreparedInput& input,
           AlignedBuffer<float>& y, ThreadPool& pool) {
  y.reserve(count * layer.outputs());
  prepare(layer.plan(), x, layer.inputs(), count, isa, input, pool);
  linear(layer, input, y.data(), layer.outputs(), pool);
}

std::optional<double> finite(double value) { return std::isfinite(value) ? std::optional(value) : std::nullopt; }

}  // namespace

RunError run_error(const PackedLinear& original, const PackedLinear& quantized, std::span<const float> bias,
                   const RowSample& rows, Isa isa, ThreadPool& pool) {
  constexpr int64_t kAtATime = 64;  // bounds memory; a row's outputs do not depend on the others
  PreparedInput input;
  AlignedBuffer<float> y, approximate;
  std::vector<Sums> by_row(static_cast<size_t>(rows.rows()));
  const auto outputs = static_cast<size_t>(original.outputs());
  for (int64_t begin = 0; begin < rows.rows(); begin += kAtATime) {
    const int64_t count = std::min(kAtATime, rows.rows() - begin);
    apply(original, rows.row(begin), count, isa, input, y, pool);
    apply(quantized, rows.row(begin), count, isa, input, approximate, pool);
    pool.run(count, [&](int64_t m) {
      const int64_t at = m * original.outputs();
      by_row[static_cast<size_t>(begin + m)] =
          sums_of({y.data() + at, outputs}, {approximate.data() + at, outputs}, bias);
    });
  }
  Sums sums;
  for (const Sums& row : by_row) sums.add(row);
  return {finite(sums.difference / sums.original), finite(sums.product / std::sqrt(sums.original * sums.quantized))};
}

}  // namespace nibble
