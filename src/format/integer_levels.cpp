#include "format/integer_levels.h"

#include <algorithm>
#include <cmath>

#include "format/grid.h"

namespace nibble {

std::optional<IntegerLevels> integer_levels(const NumberFormat& format) {
  if (!format.is_block() || format.sharing != Sharing::group) return std::nullopt;
  const Grid grid = block_grid(format, 1, 1);
  std::vector<float> levels;
  for (int32_t code = 0; code <= grid.most; ++code) levels.push_back(grid.decode(code));
  constexpr int kMostShift = 8;
  for (int shift = 0; shift < kMostShift; ++shift) {
    const auto integer = [&](float level) { return std::ldexp(level, shift); };
    const bool exact = std::all_of(levels.begin(), levels.end(), [&](float level) {
      const float value = integer(level);
      return value == std::nearbyint(value) && value >= -128 && value <= 127;
    });
    if (!exact) continue;
    IntegerLevels out{shift, {}};
    for (float level : levels) out.of_code.push_back(static_cast<int8_t>(integer(level)));
    return out;
  }
  return std::nullopt;
}

}  // namespace nibble
