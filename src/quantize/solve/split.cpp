#include "quantize/solve/split.h"

#include <algorithm>
#include <numeric>

namespace nibble {

int64_t kept_count(const KeptCount& rule, int64_t inputs, int64_t hidden, int64_t divisor) {
  const int64_t width = rule.scale_with_width ? hidden : inputs;
  int64_t count = rule.numerator > 0 ? width * rule.numerator / rule.denominator : rule.columns;
  count = std::min(count, rule.at_most);
  if (rule.scale_with_width) count = count * inputs / hidden;
  return count + (inputs - count) % divisor;
}

std::vector<int32_t> loudest_columns(std::span<const float> absmax, int64_t count) {
  std::vector<int32_t> columns(absmax.size());
  std::iota(columns.begin(), columns.end(), 0);
  std::stable_sort(columns.begin(), columns.end(), [&](int32_t a, int32_t b) {
    return absmax[static_cast<size_t>(a)] < absmax[static_cast<size_t>(b)];
  });
  columns.erase(columns.begin(), columns.end() - static_cast<std::ptrdiff_t>(count));
  std::sort(columns.begin(), columns.end());
  return columns;
}

}  // namespace nibble
