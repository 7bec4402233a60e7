// The block-wise Hadamard rotation. Runs of `block` numbers, a power of two, are multiplied by H / sqrt(block) with
// H[i][j] = (-1)^(number of ones in i & j); what is left at the end is cut into the largest powers of two that fit
// (21 = 16 + 4 + 1). The matrix is orthogonal and symmetric, and so its own inverse.
//
// What kernels do to a layer's input is defined, rounding by rounding, in kernels/abi/token.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

namespace nibble {

// 0: no rotation. Larger blocks than this would mix what no format scales together.
inline constexpr int64_t kMaxRotation = 65536;
constexpr bool is_rotation(int64_t block) {
  return block == 0 || (block >= 2 && block <= kMaxRotation && std::has_single_bit(static_cast<uint64_t>(block)));
}

// x <- x T, in place; `stride` from one number to the next.
inline void rotate(double* x, int64_t count, int64_t block, int64_t stride = 1) {
  for (int64_t size = block; count > 0; x += size * stride, count -= size) {
    while (size > count) size /= 2;
    for (int64_t half = 1; half < size; half *= 2)
      for (int64_t i = 0; i < size; ++i) {
        if ((i & half) != 0) continue;
        const double a = x[i * stride], b = x[(i + half) * stride];
        x[i * stride] = a + b;
        x[(i + half) * stride] = a - b;
      }
    const double factor = 1 / std::sqrt(static_cast<double>(size));
    for (int64_t i = 0; i < size; ++i) x[i * stride] *= factor;
  }
}

}  // namespace nibble
