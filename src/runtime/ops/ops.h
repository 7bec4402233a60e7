// The whole-tensor operations of the forward pass that are not linear layers or attention. All data is float32, all
// matrices are row-major with M rows (tokens). Rows, or fixed blocks of elements, are shared out among the threads;
// results do not depend on how many there are.
//
// Accuracy: sums in double; exp, erf and tanh within about two units in the last place.
#pragma once

#include <cstdint>
#include <span>

#include "core/threads.h"
#include "model/spec.h"

namespace nibble::ops {

// y[m] = x[m] / sqrt(mean(x[m]^2) + eps) * gain.  x, y: [M][width], y may be x. gain: width values, or empty (ones).
void rms_norm(const float* x, int64_t m, int64_t width, std::span<const float> gain, double eps, float* y,
              ThreadPool& pool);

// y[m] = (x[m] - mean) / sqrt(variance + eps) * gain + bias, the variance over width. gain and bias may be empty.
void layer_norm(const float* x, int64_t m, int64_t width, std::span<const float> gain, std::span<const float> bias,
                double eps, float* y, ThreadPool& pool);

// Rotates pairs (i, i + head_dim/2) of every head by the angle of the row's position, in place:
//   x[i] = x[i] cos - x[i + h] sin;   x[i + h] = x[i + h] cos + x[i] sin      with h = head_dim / 2
// x: [M][stride], heads of a row side by side; positions: M; cosine, sine: [positions][head_dim / 2].
void rotary(float* x, int64_t m, int64_t stride, int64_t heads, int64_t head_dim, std::span<const int64_t> positions,
            const float* cosine, const float* sine, ThreadPool& pool);

// x = f(x), `count` elements in place.
void activate(Activation f, float* x, int64_t count, ThreadPool& pool);
// y = f(gate) * up, `count` elements; y may be gate or up.
void activate_gated(Activation f, const float* gate, const float* up, float* y, int64_t count, ThreadPool& pool);

// x += y, `count` elements.
void add(float* x, const float* y, int64_t count, ThreadPool& pool);

}  // namespace nibble::ops
