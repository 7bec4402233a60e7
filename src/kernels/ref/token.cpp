#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

double fold(double (&sums)[kNormSums]) {
  for (int64_t half = kNormSums / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}

double sum(const NormArgs& args) {
  double sums[kNormSums] = {};
  for (int64_t k = 0; k < args.width; ++k) sums[k % kNormSums] += static_cast<double>(args.x[k]);
  return fold(sums);
}

double sum_of_squares(const NormArgs& args, double mean) {
  double sums[kNormSums] = {};
  for (int64_t k = 0; k < args.width; ++k) {
    const double d = static_cast<double>(args.x[k]) - mean;
    sums[k % kNormSums] = std::fma(d, d, sums[k % kNormSums]);
  }
  return fold(sums);
}

float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float shifted = std::fma(x, 1.44269504f, 12582912.0f), n = shifted - 12582912.0f;
  const float r = std::fma(n, 2.12194440e-4f, std::fma(n, -0.693359375f, x));
  float p = 1.0f / 5040;
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = std::fma(p, r, c);
  return p * std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000u);
}

float gelu(float x) {
  const float w = 1.0f / std::fma(std::fabs(x), 0.25f, 1.0f);
  float p = kNormalTail[9];
  for (int i = 8; i >= 0; --i) p = std::fma(p, w, kNormalTail[i]);
  const float q = exponential(x * x * -0.5f) * (w * p);
  return std::fma(-std::fabs(x), q, x < 0.0f ? 0.0f : x);
}

float value_of(Function f, float x) {
  switch (f) {
    case Function::silu: return x / (1.0f + exponential(-x));
    case Function::gelu: return gelu(x);
    case Function::gelu_tanh: {
      const float twice = 1.59576912160573f * x * std::fma(0.044715f * x, x, 1.0f);
      return x / (1.0f + exponential(-twice));
    }
    case Function::relu: return x < 0.0f ? 0.0f : x;
  }
  return 0;
}

}  // namespace

void norm(const NormArgs& args) {
  const auto width = static_cast<double>(args.width);
  const double mean = args.centred ? sum(args) / width : 0;
  const auto inverse = static_cast<float>(1.0 / std::sqrt(sum_of_squares(args, mean) / width + args.eps));
  const auto centre = static_cast<float>(mean);
  for (int64_t k = 0; k < args.width; ++k) {
    const float y = (args.x[k] - centre) * inverse, gain = args.gain == nullptr ? 1.0f : args.gain[k];
    args.y[k] = args.bias == nullptr ? y * gain : std::fma(y, gain, args.bias[k]);
  }
}

void activate(const ActivateArgs& args) {
  for (int64_t k = 0; k < args.count; ++k) {
    const float y = value_of(args.function, args.x[k]);
    args.y[k] = args.factor == nullptr ? y : y * args.factor[k];
  }
}

void split(const SplitArgs& args) {
  float *dense = args.dense, *kept = args.kept;
  int64_t column = 0;
  for (int64_t c = 0; c < args.kept_count; ++c) {
    dense = std::copy(args.x + column, args.x + args.kept_columns[c], dense);
    column = args.kept_columns[c];
    *kept++ = args.x[column++];
  }
  std::copy(args.x + column, args.x + args.columns, dense);
}

namespace {

void rotate_piece(float* y, int64_t size) {
  for (int64_t half = 1; half < size; half *= 2)
    for (int64_t i = 0; i < size; ++i) {
      if ((i & half) != 0) continue;
      const float a = y[i], b = y[i + half];
      y[i] = a + b;
      y[i + half] = a - b;
    }
  float factor = 1;
  int64_t rest = size;
  for (; rest > 2; rest /= 4) factor *= 0.5f;
  if (rest == 2) factor *= kRootOfHalf;
  for (int64_t i = 0; i < size; ++i) y[i] *= factor;
}

}  // namespace

void rotate(const RotateArgs& args) {
  if (args.y != args.x) std::copy(args.x, args.x + args.count, args.y);
  for (int64_t k = 0, size = args.block; k < args.count; k += size) {
    while (size > args.count - k) size /= 2;
    rotate_piece(args.y + k, size);
  }
}

}  // namespace nibble::ref
