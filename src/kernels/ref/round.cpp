#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/half.h"
#include "kernels/ref/rounding.h"
#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

uint32_t mantissa_of(float x) { return std::bit_cast<uint32_t>(x) & ((1u << 23) - 1); }
int exponent_of(float x) { return static_cast<int>(std::bit_cast<uint32_t>(x) >> 23 & 255) - 127; }

// |u| to a multiple of the step of its exponent.
float to_multiple(float a, Rounding rounding, int mantissa_bits, int least_exponent) {
  const float step = std::ldexp(1.0f, std::max(exponent_of(a), least_exponent) - mantissa_bits);
  const float steps = a / step;
  float whole = std::nearbyint(steps);
  if (rounding == Rounding::away && steps - whole == 0.5f) ++whole;
  return whole * step;
}

float to_power(float a, int least_exponent) {
  const float least = std::ldexp(1.0f, least_exponent);
  if (a < least) return a <= least / 2 ? 0.0f : least;
  return std::ldexp(1.0f, exponent_of(a) + int{mantissa_of(a) > kRootOfTwo});
}

// What the scales of a row's blocks are multiplied with.
float row_scale(const RoundArgs& args) {
  if (args.scale != BlockScale::e4m3) return 1;
  return args.outer > 0 ? args.outer : outer_scale(args, absmax_of(args.x, args.count));
}

float block_scale(const RoundArgs& args, float most, float of_row) {
  if (args.scale == BlockScale::constant) return args.constant;
  if (args.scale == BlockScale::e4m3) return most == 0 ? of_row : to_e4m3(most / (args.greatest * of_row)) * of_row;
  return std::ldexp(1.0f, scale_exponent(args, most));
}

// The records of a row, block by block.
struct Records {
  const EncodeArgs& args;
  const RoundArgs& rounding = args.rounding;
  int64_t blocks = (rounding.count + rounding.block - 1) / rounding.block;

  float most_of(int64_t b) const {
    const int64_t begin = b * rounding.block;
    return absmax_of(rounding.x + begin, std::min(rounding.block, rounding.count - begin));
  }

  void write(int64_t b, float scale, float written_scale) const {
    uint8_t* record = args.records + b * (rounding.block + int64_t{sizeof(BlockTail)});
    int32_t sum = 0;
    for (int64_t i = 0; i < rounding.block; ++i) {
      const int64_t k = b * rounding.block + i;
      const float level = scale > 0 && k < rounding.count ? level_of(rounding.x[k] / scale, rounding) : 0;
      const auto code = static_cast<int8_t>(std::ldexp(level, args.shift));
      record[i] = static_cast<uint8_t>(code);
      sum += code;
    }
    const BlockTail tail{kBlockStart - 128 * sum, written_scale, kBlockStartValue * written_scale, 0};
    std::memcpy(record + rounding.block, &tail, sizeof tail);
  }
};

}  // namespace

float absmax_of(const float* x, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(x[i])) return std::numeric_limits<float>::quiet_NaN();
    most = std::max(most, std::fabs(x[i]));
  }
  return most;
}

float to_e4m3(float scale) {
  constexpr float kLeast = 0x1p-9f, kMost = 448;
  return std::min(to_multiple(std::clamp(scale, kLeast, kMost), Rounding::to_even, 3, -6), kMost);
}

float outer_scale(const RoundArgs& args, float most) {
  if (!(most > 0)) return 1;
  const float scale = most / (args.greatest * 448);
  return std::ldexp(1.0f, std::clamp(exponent_of(scale) + int{mantissa_of(scale) != 0}, -100, 100));
}

float level_of(float u, const RoundArgs& args) {
  const float a = std::fabs(u);
  const float magnitude = args.rounding == Rounding::powers
                              ? to_power(a, args.least_exponent)
                              : to_multiple(a, args.rounding, args.mantissa_bits, args.least_exponent);
  return std::clamp(std::copysign(magnitude, u), args.least, args.greatest);
}

int scale_exponent(const RoundArgs& args, float most) {
  const uint32_t mantissa = mantissa_of(most);
  const int exponent = exponent_of(most) - args.shift + int{mantissa >= args.up_from} - int{mantissa < args.down_below};
  return std::clamp(exponent, -127, 127);
}

void round(const RoundArgs& args) {
  const float of_row = row_scale(args);
  for (int64_t begin = 0; begin < args.count; begin += args.block) {
    const int64_t end = std::min(args.count, begin + args.block);
    const float most = absmax_of(args.x + begin, end - begin);
    const float scale = block_scale(args, most, of_row);
    for (int64_t i = begin; i < end; ++i)
      args.y[i] = f32_to_bf16(std::isnan(most) ? most : scale * level_of(args.x[i] / scale, args));
  }
}

void encode(const EncodeArgs& args) {
  const RoundArgs& rounding = args.rounding;
  const Records records{args};
  if (std::isnan(absmax_of(rounding.x, rounding.count))) {
    *args.scale = std::numeric_limits<float>::quiet_NaN();
    for (int64_t b = 0; b < records.blocks; ++b) records.write(b, 0, 1);
    return;
  }
  if (rounding.scale == BlockScale::e4m3) {
    const float of_row = row_scale(rounding);
    *args.scale = std::ldexp(of_row, -args.shift);
    for (int64_t b = 0; b < records.blocks; ++b) {
      const float scale = block_scale(rounding, records.most_of(b), of_row);
      records.write(b, scale, scale / of_row);
    }
    return;
  }
  int greatest = -127;
  for (int64_t b = 0; b < records.blocks; ++b)
    greatest = std::max(greatest, scale_exponent(rounding, records.most_of(b)));
  *args.scale = std::ldexp(1.0f, greatest - args.shift);
  for (int64_t b = 0; b < records.blocks; ++b) {
    const int exponent = scale_exponent(rounding, records.most_of(b));
    const bool none = exponent - greatest < -126;
    records.write(b, none ? 0 : std::ldexp(1.0f, exponent), none ? 1 : std::ldexp(1.0f, exponent - greatest));
  }
}

}  // namespace nibble::ref
