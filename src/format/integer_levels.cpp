#include "format/integer_levels.h"

#include <cmath>

#include "format/grid.h"

namespace nibble {

std::optional<int> integer_shift(const NumberFormat& format) {
  if (!format.is_block() || format.sharing != Sharing::group) return std::nullopt;
  const Grid grid = block_grid(format, 1, 1);
  constexpr int kMostShift = 8;
  for (int shift = 0; shift < kMostShift; ++shift) {
    bool exact = true;
    for (int32_t code = 0; code <= grid.most && exact; ++code) {
      const float value = std::ldexp(grid.decode(code), shift);
      exact = value == std::nearbyint(value) && value >= -128 && value <= 127;
    }
    if (exact) return shift;
  }
  return std::nullopt;
}

std::optional<IntegerLevels> integer_levels(const NumberFormat& format) {
  const std::optional<int> shift = integer_shift(format);
  if (!shift) return std::nullopt;
  const Grid grid = block_grid(format, 1, 1);
  IntegerLevels out{*shift, {}};
  for (int32_t code = 0; code <= grid.most; ++code)
    out.of_code.push_back(static_cast<int8_t>(std::ldexp(grid.decode(code), *shift)));
  return out;
}

}  // namespace nibble
