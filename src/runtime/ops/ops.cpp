#include "runtime/ops/ops.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace nibble::ops {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;

int64_t rows_per_task(int64_t width) { return std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, width)); }

// Calls row(i) for each of M rows of `width` elements.
template <class Row>
void each_row(int64_t m, int64_t width, ThreadPool& pool, Row row) {
  pool.run_ranges(m, rows_per_task(width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row(i);
  });
}

// sum of f(x[k]) in double, in eight interleaved partial sums: a fixed order that vectorizes.
template <class F>
double sum_of(const float* x, int64_t width, F f) {
  double lanes[8] = {};
  int64_t k = 0;
  for (; k + 8 <= width; k += 8)
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += f(static_cast<double>(x[k + lane]));
  for (; k < width; ++k) lanes[k % 8] += f(static_cast<double>(x[k]));
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// y = (x - mean) * inverse * gain + bias, an empty gain meaning ones and an empty bias zeros.
void scale_row(const float* x, int64_t width, float mean, float inverse, std::span<const float> gain,
               std::span<const float> bias, float* y) {
  for (int64_t k = 0; k < width; ++k) y[k] = (x[k] - mean) * inverse;
  if (!gain.empty())
    for (int64_t k = 0; k < width; ++k) y[k] *= gain[static_cast<size_t>(k)];
  if (!bias.empty())
    for (int64_t k = 0; k < width; ++k) y[k] += bias[static_cast<size_t>(k)];
}

float inverse_root(double mean_square, double eps) { return static_cast<float>(1.0 / std::sqrt(mean_square + eps)); }

// e^x within 2 units in the last place, without branches or library calls so that loops over it vectorize; NaN stays
// NaN, x < -87 gives e^-87 (still a normal number), x > 88.4 infinity. 2^n * e^r: adding 1.5 * 2^23 rounds to the
// integer n and leaves it in the low bits; e^r is its Taylor polynomial of degree 7, |r| <= ln(2) / 2.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float e = 1.0f / 5040;
  e = e * r + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  return e * std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000u);
}

struct Silu {
  static float of(float x) { return x / (1.0f + exponential(-x)); }
};

struct Gelu {
  static float of(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f)); }
};

// 0.5 x (1 + tanh u) = x / (1 + e^(-2u)) with u = sqrt(2/pi) (x + 0.044715 x^3)
struct GeluTanh {
  static float of(float x) {
    const float twice = 1.59576912160573f * (x + 0.044715f * x * x * x);
    return x / (1.0f + exponential(-twice));
  }
};

struct Relu {
  static float of(float x) { return x < 0.0f ? 0.0f : x; }
};

// Calls run(F()) with the function that `f` names.
template <class Run>
void with_function(Activation f, Run run) {
  switch (f) {
    case Activation::silu: return run(Silu());
    case Activation::gelu: return run(Gelu());
    case Activation::gelu_tanh: return run(GeluTanh());
    case Activation::relu: return run(Relu());
  }
}

void rotate_head(float* x, int64_t half, const float* cosine, const float* sine) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + half] = b * cosine[i] + a * sine[i];
  }
}

}  // namespace

void rms_norm(const float* x, int64_t m, int64_t width, std::span<const float> gain, double eps, float* y,
              ThreadPool& pool) {
  each_row(m, width, pool, [&](int64_t i) {
    const float* row = x + i * width;
    const double squares = sum_of(row, width, [](double v) { return v * v; });
    scale_row(row, width, 0.0f, inverse_root(squares / static_cast<double>(width), eps), gain, {}, y + i * width);
  });
}

void layer_norm(const float* x, int64_t m, int64_t width, std::span<const float> gain, std::span<const float> bias,
                double eps, float* y, ThreadPool& pool) {
  each_row(m, width, pool, [&](int64_t i) {
    const float* row = x + i * width;
    const double mean = sum_of(row, width, [](double v) { return v; }) / static_cast<double>(width);
    const double squares = sum_of(row, width, [mean](double v) { return (v - mean) * (v - mean); });
    const float inverse = inverse_root(squares / static_cast<double>(width), eps);
    scale_row(row, width, static_cast<float>(mean), inverse, gain, bias, y + i * width);
  });
}

void rotary(float* x, int64_t m, int64_t stride, int64_t heads, int64_t head_dim, std::span<const int64_t> positions,
            const float* cosine, const float* sine, ThreadPool& pool) {
  const int64_t half = head_dim / 2;
  each_row(m, heads * head_dim, pool, [&](int64_t i) {
    const int64_t angle = positions[static_cast<size_t>(i)] * half;
    for (int64_t head = 0; head < heads; ++head)
      rotate_head(x + i * stride + head * head_dim, half, cosine + angle, sine + angle);
  });
}

void activate(Activation f, float* x, int64_t count, ThreadPool& pool) {
  with_function(f, [&](auto function) {
    pool.run_ranges(count, kElementsPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) x[k] = function.of(x[k]);
    });
  });
}

void activate_gated(Activation f, const float* gate, const float* up, float* y, int64_t count, ThreadPool& pool) {
  with_function(f, [&](auto function) {
    pool.run_ranges(count, kElementsPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) y[k] = function.of(gate[k]) * up[k];
    });
  });
}

void add(float* x, const float* y, int64_t count, ThreadPool& pool) {
  pool.run_ranges(count, kElementsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) x[k] += y[k];
  });
}

}  // namespace nibble::ops
