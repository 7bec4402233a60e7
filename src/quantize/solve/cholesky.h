// Dense symmetric factorisation in float64, in place, in parallel and bit-identical for any number of threads.
#pragma once

#include "core/threads.h"
#include "quantize/triangle.h"

namespace nibble {

// In place: h becomes the upper triangular U with U' U = inverse of h, the Cholesky factor of the inverse, without
// forming the inverse: U is the inverse of R, the upper triangular matrix with R R' = h. False when a pivot is not
// positive (or not finite): h is not positive definite, and its contents are lost. Beside h it needs
// factor_scratch_bytes().
bool upper_factor_of_inverse(Triangle& h, ThreadPool& pool);
int64_t factor_scratch_bytes(int64_t n, int threads);

}  // namespace nibble
