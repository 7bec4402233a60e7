#include "format/grid.h"

#include <algorithm>

namespace nibble {

int32_t Grid::nearest_level(float x) const {
  int32_t code = 0;
  while (code < most && x - table[code] > table[code + 1] - x) ++code;
  return code;
}

Range range_of(std::span<const float> values) {
  Range range;
  for (float x : values) range.widen(x);
  return range;
}

Grid symmetric_grid(float absmax, int bits) {
  if (!(absmax > kSmallestRange)) absmax = 1;
  const int32_t half = middle_offset(bits), most = bits == 1 ? half : half - 1;
  return Grid::make(absmax / static_cast<float>(most), half, bits);
}

Grid asymmetric_grid(Range range, int bits) {
  if (!(range.greatest - range.least > kSmallestRange)) range = {-1, 1};
  const float scale = (range.greatest - range.least) / static_cast<float>(most_offset(bits));
  const float offset = std::nearbyint(-range.least * (1.0f / scale));
  return Grid::make(scale, offset > 0 ? static_cast<int32_t>(offset) : 0, bits);  // NaN when the range is infinite
}

Grid fit_grid(Range range, int bits, bool asymmetric) {
  if (asymmetric) return asymmetric_grid(range, bits);
  return symmetric_grid(std::max(-range.least, range.greatest), bits);
}

}  // namespace nibble
