#include "runtime/ops/ops.h"

#include <algorithm>

#include "kernels/input.h"

namespace nibble::ops {
namespace {

// Calls row(i) for each of M rows of `width` elements.
template <class Row>
void each_row(int64_t m, int64_t width, ThreadPool& pool, Row row) {
  constexpr int64_t kElementsPerTask = 1 << 14;
  pool.run_ranges(m, kElementsPerTask / std::max<int64_t>(1, width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row(i);
  });
}

const float* data_or_null(const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); }

Function function_of(Activation f) {
  switch (f) {
    case Activation::silu: return Function::silu;
    case Activation::gelu: return Function::gelu;
    case Activation::gelu_tanh: return Function::gelu_tanh;
    case Activation::relu: break;
  }
  return Function::relu;
}

}  // namespace

void norm_row(const Spec& spec, const NormWeight& norm, const float* x, Isa isa, float* y) {
  token_kernels(isa).norm({.x = x,
                           .width = spec.hidden,
                           .centred = spec.norm == Norm::layer,
                           .gain = data_or_null(norm.gain),
                           .bias = data_or_null(norm.bias),
                           .eps = spec.norm_eps,
                           .y = y});
}

void normalize(const Spec& spec, const NormWeight& norm, const float* x, int64_t m, float* y, Isa isa,
               ThreadPool& pool) {
  each_row(m, spec.hidden, pool,
           [&](int64_t i) { norm_row(spec, norm, x + i * spec.hidden, isa, y + i * spec.hidden); });
}

void activate_row(Activation f, const float* x, const float* factor, int64_t count, Isa isa, float* y) {
  token_kernels(isa).activate({function_of(f), x, factor, y, count});
}

void add(float* x, const float* y, int64_t m, int64_t width, ThreadPool& pool) {
  each_row(m, width, pool, [&](int64_t i) {
    for (int64_t k = i * width; k < (i + 1) * width; ++k) x[k] += y[k];
  });
}

}  // namespace nibble::ops
