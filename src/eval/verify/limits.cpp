#include "eval/verify/limits.h"

#include <algorithm>

#include "format/number_format.h"

namespace nibble {
namespace {

// One row per class of widths; the first row that a model is not below applies.
struct LimitsRow {
  double weights;   // at least these average bits
  int activations;  // and at least these
  DivergenceLimits limits;
};
constexpr LimitsRow kRows[] = {
    {15.5, 16, {0.002, 0.98, 1.01}},  // floats
    {7.5, 8, {0.05, 0.88, 1.05}},     // W8A8 and weight-only 8 bits
    {5.5, 16, {0.05, 0.88, 1.05}},    // weight-only 6 bits
    {3.5, 8, {0.20, 0.70, 1.25}},     // weight-only 4 bits, W4A8
    {3.5, 4, {0.40, 0.60, 1.45}},     // W4A4
    {2.5, 8, {0.80, 0.50, 2.00}},     // 3 bits
    {0.0, 0, {1.50, 0.30, 4.00}},     // fewer
};

Result<NumberFormat> format_of(const Json& entry, const char* key) {
  return parse_format(entry.value(key, std::string("f32")));
}

}  // namespace

Result<BitWidths> bit_widths_of(const ModelSource& source) {
  BitWidths widths;
  if (source.quantization() == nullptr) return widths;
  const Json& linears = (*source.quantization())["linears"];
  double bits = 0, weights = 0;
  for (int64_t block = 0; block < source.spec().layers; ++block)
    for (Role role : kAllRoles) {
      const Shape shape = shape_of(source.spec(), role);
      const auto count = static_cast<double>(shape.rows) * static_cast<double>(shape.columns);
      const auto entry = linears.find(linear_name(block, role));
      weights += count;
      if (entry == linears.end()) {
        bits += 16 * count;
        continue;
      }
      NIBBLE_TRY(const NumberFormat stored, format_of(*entry, "weights"));
      NIBBLE_TRY(const NumberFormat read, format_of(*entry, "activations"));
      // Where columns have bits of their own, the codes of a row say how many.
      const int64_t dense = shape.columns - entry->value("kept", int64_t{0});
      const double open = entry->value("row_bits", 0.0) / static_cast<double>(std::max<int64_t>(1, dense));
      bits += (stored.bits == 0 ? open : std::min(stored.bits, 16)) * count;
      if (read.has_codes()) widths.activations = std::min(widths.activations, read.bits);
    }
  if (weights > 0) widths.weights = bits / weights;
  return widths;
}

DivergenceLimits default_limits(const BitWidths& widths) {
  for (const LimitsRow& row : kRows)
    if (widths.weights >= row.weights && widths.activations >= row.activations) return row.limits;
  return std::end(kRows)[-1].limits;
}

std::string to_string(const BitWidths& widths) {
  return fmt::format("{:.3g}-bit weights, {}", widths.weights,
                     widths.activations == 16 ? std::string("float activations")
                                              : fmt::format("{}-bit activations", widths.activations));
}

}  // namespace nibble
