// The operations of the forward pass between the linear layers and attention. All data is float32, all matrices are
// row-major with M rows (tokens). What is done to one row runs on the calling thread and can be the RowSource of a
// linear layer's input; whole tensors are shared out among the threads by rows, which changes no result.
//
// Accuracy: sums in double; activation functions within a few units in the last place (kernels/abi/token.h).
#pragma once

#include <cstdint>

#include "core/cpu.h"
#include "core/threads.h"
#include "model/model.h"

namespace nibble::ops {

// RMS or layer norm of a row of the Spec's hidden width; y may be x.
void norm_row(const Spec& spec, const NormWeight& norm, const float* x, Isa isa, float* y);
// The same for M rows.
void normalize(const Spec& spec, const NormWeight& norm, const float* x, int64_t m, float* y, Isa isa,
               ThreadPool& pool);

// y = f(x) * factor, or f(x) where factor is null, `count` values; y may be x or factor.
void activate_row(Activation f, const float* x, const float* factor, int64_t count, Isa isa, float* y);

// x += y, M rows of `width` values.
void add(float* x, const float* y, int64_t m, int64_t width, ThreadPool& pool);

}  // namespace nibble::ops
