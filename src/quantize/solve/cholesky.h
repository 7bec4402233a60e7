// Dense symmetric factorisation in float64, in parallel and bit-identical for any number of threads.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/threads.h"

namespace nibble {

// In place: the lower triangle of a [n][n] (row-major) becomes L with L L' = a; the upper one is not read and left
// as it is. False when a pivot is not positive (or not finite): a is not positive definite, and its contents are lost.
bool cholesky(double* a, int64_t n, ThreadPool& pool);

// The inverse of a lower triangular matrix [n][n], which is lower triangular; zeros above the diagonal.
AlignedBuffer<double> invert_lower(const double* lower, int64_t n, ThreadPool& pool);

// The upper triangular U with U' U = inverse of the symmetric h [n][n] (only its upper triangle is read): the
// Cholesky factor of the inverse, without forming the inverse. With rows and columns of h reversed and L L' its
// factorisation, h = R R' with R the reversed L, and U is the inverse of R. Empty when h is not positive definite.
AlignedBuffer<double> upper_factor_of_inverse(AlignedBuffer<double> h, int64_t n, ThreadPool& pool);

}  // namespace nibble
