#include <algorithm>
#include <cmath>
#include <limits>

#include "format/grid.h"
#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

// Codes of group g and zeros in its padding; returns the sum of the codes.
int32_t encode_group(const QuantizeArgs& args, const float* x, const Grid& grid, int64_t g, uint8_t* codes) {
  const int64_t begin = g * args.group_size, count = std::min(args.group_size, args.columns - begin);
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t code = grid.encode(x[begin + i]);
    codes[i] = static_cast<uint8_t>(code);
    sum += code;
  }
  std::fill(codes + count, codes + args.group_stride, uint8_t{0});
  return sum;
}

}  // namespace

void quantize(const QuantizeArgs& args) {
  for (int64_t m = args.m_begin; m < args.m_end; ++m) {
    const std::span<const float> x(args.x + m * args.x_stride, static_cast<size_t>(args.columns));
    const Grid grid = fit_grid(range_of(x), args.bits, args.asymmetric);
    const bool nan = std::any_of(x.begin(), x.end(), [](float value) { return std::isnan(value); });
    args.scales[m] = nan ? std::numeric_limits<float>::quiet_NaN() : grid.scale;
    args.zeros[m] = grid.offset;
    for (int64_t g = 0; g < args.groups; ++g)
      args.sums[g * args.sum_stride + m] =
          encode_group(args, x.data(), grid, g, args.codes + m * args.stride + g * args.group_stride);
  }
}

}  // namespace nibble::ref
