// Preparing a layer's input (splitting off its kept columns and quantizing the others) by itself, and beside the
// multiplication that it is for.
#pragma once

#include "bench/measure.h"

namespace nibble::bench {

// No operations; bytes: float input, codes and kept floats with what belongs to each token.
Work work_of(const QuantizeTask& task);

struct QuantizeMeasurement {
  Measurement alone;                // input from memory, against copying (bytes counted as read and as written)
  const LinearRow* gemm = nullptr;  // that a model would run on the prepared input
  double of_gemm = 0;               // time to prepare over time to multiply, both with the input in cache
};

Result<QuantizeMeasurement> measure_quantization(Machine& machine, const QuantizeTask& task, Isa isa, const Plan& plan,
                                                 Scratch& scratch);

}  // namespace nibble::bench
