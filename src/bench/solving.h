// What a quantizer spends its time on: Gram matrices of calibration text, factors of their inverses, GPTQ.
#pragma once

#include "bench/measure.h"

namespace nibble::bench {

// "gram", "factorise", "gptq".
const char* name_of(Solving what);

// Operations: of a Gram matrix M K (K + 1), since its upper triangle is all that is computed; of a Cholesky factor and
// its inverse K^3 / 3 each; of GPTQ the updates of later columns, N K^2. Bytes: the matrices and what comes out, once.
Work work_of(const SolveTask& task);
// In which they are multiplied: f32 in Gram matrices, else f64.
Arithmetic arithmetic_of(Solving what);

// With the kernels that this process solves with. The Gram matrix that is factorised is that of random inputs, and the
// weights are solved to int4:g128:asym without clipping.
Result<Measurement> measure_solving(Machine& machine, const SolveTask& task, Unit& unit, const Plan& plan);

}  // namespace nibble::bench
