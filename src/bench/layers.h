// Layers to multiply with: weights of any kind whose numbers are random and whose values do not matter.
#pragma once

#include "bench/cases.h"
#include "format/linear_weight.h"
#include "kernels/linear.h"

namespace nibble::bench {

// Random codes, scales of 1/128, floats of ordinary size (no NaN, nothing denormal), kept columns spread evenly.
Result<LinearWeight> random_layer(const LayerKind& kind, const Shape& shape);

// The same layer as often as it takes to fill the rotation, but at most 4096 times: copies of a narrow layer are
// smaller than what describes them, which counts as well, and may fit the caches.
Result<std::vector<PackedLinear>> packed_copies(const Task& task, Isa isa, int64_t rotation_bytes, ThreadPool& pool);

// Random floats in [-1, 1) as input of M tokens: [M][K].
std::vector<float> random_input(int64_t m, int64_t k);

}  // namespace nibble::bench
