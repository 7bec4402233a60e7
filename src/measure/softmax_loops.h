// The loops behind measure/softmax.h, one set per instruction set. All sets give the same bits.
#pragma once

#include <cstddef>
#include <span>

#include "core/cpu.h"

namespace nibble {

// Rows have `count` >= 1 finite values; `greatest` is the row's.
struct SoftmaxLoops {
  Isa isa;
  float (*greatest)(const float* x, size_t count);
  // Of exp(x[i] - greatest).
  double (*exponential_sum)(const float* x, size_t count, float greatest);
  // The mean of (x[i] - greatest_x) - (y[i] - greatest_y), weighted with exp(x[i] - greatest_x).
  double (*mean_difference)(const float* x, const float* y, size_t count, float greatest_x, float greatest_y);
};

// All that this processor can run, portable first.
std::span<const SoftmaxLoops> softmax_loops();

}  // namespace nibble
