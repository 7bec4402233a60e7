// Parts of the reference of rounding to block formats (kernels/abi/token.h) that storing keys and values shares.
#pragma once

#include <cstdint>

#include "kernels/abi/token.h"

namespace nibble::ref {

// The level that x / scale becomes.
float level_of(float u, const RoundArgs& args);
// The exponent of BlockScale::power for the largest magnitude of a block.
int scale_exponent(const RoundArgs& args, float most);
// The E4M3 number that a scale becomes, of 2^-9 .. 448.
float to_e4m3(float scale);
// `t` of BlockScale::e4m3 for the largest magnitude of all that shares it.
float outer_scale(const RoundArgs& args, float most);
// NaN when a value is NaN or infinite.
float absmax_of(const float* x, int64_t count);

}  // namespace nibble::ref
