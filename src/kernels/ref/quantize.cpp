#include <algorithm>
#include <cmath>
#include <limits>

#include "format/grid.h"
#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

struct Row {
  const QuantizeArgs& args;
  const float* x;
  float value(int64_t i) const { return x[args.dense_columns == nullptr ? i : args.dense_columns[i]]; }
};

Grid row_grid(const Row& row) {
  Range range;
  for (int64_t i = 0; i < row.args.dense_count; ++i) range.widen(row.value(i));
  return fit_grid(range, row.args.bits, row.args.asymmetric);
}

bool has_nan(const Row& row) {
  bool found = false;
  for (int64_t i = 0; i < row.args.dense_count; ++i) found |= std::isnan(row.value(i));
  return found;
}

// Codes of group g and zeros in its padding; returns the sum of the codes.
int32_t encode_group(const Row& row, const Grid& grid, int64_t g, uint8_t* codes) {
  const int64_t begin = g * row.args.group_size;
  const int64_t count = std::min(row.args.group_size, row.args.dense_count - begin);
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t code = grid.encode(row.value(begin + i));
    codes[i] = static_cast<uint8_t>(code);
    sum += code;
  }
  std::fill(codes + count, codes + row.args.group_stride, uint8_t{0});
  return sum;
}

}  // namespace

void quantize(const QuantizeArgs& args) {
  for (int64_t m = args.m_begin; m < args.m_end; ++m) {
    const Row row{args, args.x + m * args.x_stride};
    const Grid grid = row_grid(row);
    args.scales[m] = has_nan(row) ? std::numeric_limits<float>::quiet_NaN() : grid.scale;
    args.zeros[m] = grid.offset;
    for (int64_t g = 0; g < args.groups; ++g)
      args.sums[m * args.groups + g] = encode_group(row, grid, g, args.codes + m * args.stride + g * args.group_stride);
    for (int64_t c = 0; c < args.kept_count; ++c) args.kept[m * args.kept_stride + c] = row.x[args.kept_columns[c]];
  }
}

}  // namespace nibble::ref
