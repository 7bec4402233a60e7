// Layers to multiply with: weights of any kind whose numbers are random and whose values do not matter.
#pragma once

#include "bench/cases.h"
#include "format/linear_weight.h"

namespace nibble::bench {

// Random codes, scales of 1/128, floats of ordinary size (no NaN, nothing denormal), kept columns spread evenly.
Result<LinearWeight> random_layer(const LayerKind& kind, const Shape& shape);

// Random floats in [-1, 1) as input of M tokens: [M][K].
std::vector<float> random_input(int64_t m, int64_t k);

}  // namespace nibble::bench
