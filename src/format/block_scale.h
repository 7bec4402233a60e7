// Choosing the scale of a block: encoder policy for the formats whose scales are powers of two or E4M3 numbers.
#pragma once

#include <cstdint>
#include <span>

#include "format/grid.h"
#include "format/number_format.h"

namespace nibble {

// How the exponent of a block's scale follows from its largest magnitude a = 1.m * 2^e, m being 23 bits:
//   e - shift + (m >= up_from) - (m < down_below), at least -127 and at most 127; a below 2^-126 counts as e = -127.
// All rules but `search` come down to it.
struct PowerRule {
  int shift = 0;
  uint32_t up_from = UINT32_MAX, down_below = 0;
  int exponent(float a) const;
};
PowerRule power_rule(const NumberFormat& format);

// The scale of a block format for values of which the largest magnitude is `absmax`, by its rule (`search` as `even`,
// 4over6 as `fit`). 1 for a block of zeros; NaN when absmax is NaN or infinite: no number of the block means anything
// then.
float block_scale(const NumberFormat& format, float absmax, float outer);

// The outer scale of a matrix: the one under which its largest magnitude takes the largest scale and level. 1 for
// formats without one.
float outer_scale(const NumberFormat& format, float absmax);
// The same for a token's row of activations, found while it runs: rounded up to a power of two.
float token_outer_scale(const NumberFormat& format, float absmax);

// Fixed point with the fraction that just holds values up to `most`: floor(log2((2^(bits-1) - 1) / most)).
NumberFormat with_fraction(NumberFormat format, float most);
// Whether a format that is stored is the one planned, but for a fraction that was to be found.
bool fulfils(const NumberFormat& stored, const NumberFormat& planned);

// The grid of one block of weights, by the format's rule.
Grid choose_block_grid(std::span<const float> values, const NumberFormat& format, float outer);

// One row of activations rounded to a block format: the definition of what kernels do. y may be x.
void round_row(std::span<const float> x, const NumberFormat& format, std::span<float> y);
// The same where the outer scale is not that of a row.
void round_row(std::span<const float> x, const NumberFormat& format, float outer, std::span<float> y);

// Probabilities over their greatest, which is 1. Where scales are E4M3 numbers the outer one needs no data, and a
// block's largest value becomes the level 4, not 6: so 1 is 2^-10 * 2^8 * 4, while no E4M3 number is a sixth of a power
// of two.
inline constexpr float kProbabilityOuter = 0x1p-10f, kProbabilityLevel = 4;
void round_probabilities(std::span<const float> x, const NumberFormat& format, std::span<float> y);

}  // namespace nibble
