#include <bit>
#include <cmath>

#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

constexpr int64_t kRows = 4, kColumns = 8;
constexpr float kRounder = 12582912;  // 1.5 * 2^23: adding it rounds to a whole number

template <class T>
void multiply_tile(const ProductArgs<T>& args) {
  for (int64_t i = 0; i < kRows; ++i)
    for (int64_t j = 0; j < kColumns; ++j) {
      T sum = args.c[i * args.c_stride + j];
      for (int64_t k = 0; k < args.depth; ++k)
        sum = std::fma(args.a[k * args.a_step + i], args.b[k * kColumns + j], sum);
      args.c[i * args.c_stride + j] = sum;
    }
}

template <int N>
float horner(const float (&coefficients)[N], float x) {
  float value = coefficients[N - 1];
  for (int i = N - 2; i >= 0; --i) value = std::fma(value, x, coefficients[i]);
  return value;
}

float power(float d, float norm) {
  const auto bits = std::bit_cast<int32_t>(d);
  const int32_t e = (bits - 0x3F3504F3) >> 23;
  const float t = std::bit_cast<float>(bits - e * (1 << 23)) - 1;
  float y = norm * std::fma(t, horner(kLog2, t), static_cast<float>(e));
  y = y > -126 ? y : -126.0f;
  y = y < 126 ? y : 126.0f;
  const float n = (y + kRounder) - kRounder;
  return std::bit_cast<float>(std::bit_cast<int32_t>(horner(kExp2, y - n)) + static_cast<int32_t>(n) * (1 << 23));
}

float term(const CostArgs& args, float value) {
  const float q = value * args.inverse;
  float level = q > args.least ? q : args.least;
  level = level < args.greatest ? level : args.greatest;
  const float d = std::fabs(q - ((level + kRounder) - kRounder));
  return args.norm == 2 ? d * d : power(d, args.norm);
}

}  // namespace

void multiply(const ProductArgs<float>& args) { multiply_tile(args); }
void multiply(const ProductArgs<double>& args) { multiply_tile(args); }

void widen(const WidenArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) args.to[i] += static_cast<double>(args.from[i]);
}

void add_scaled(const AddScaledArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) args.to[i] = std::fma(args.factor, args.from[i], args.to[i]);
}

float cost(const CostArgs& args) {
  float sums[kCostSums] = {};
  for (int64_t i = 0; i < args.count; ++i) sums[i % kCostSums] += term(args, args.values[i]);
  for (int64_t half = kCostSums / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}

}  // namespace nibble::ref
