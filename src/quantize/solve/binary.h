// Levels of a binary coding: centre +- a_1 +- a_2 .. +- a_k, found in two steps (GPTQT, arXiv 2407.02891, as far as its
// abstract tells). First the values are rounded to integers of more bits; then, of all binary codings among these
// integers, those that cost the values least are tried under other scales of the integers, and the best of these pairs
// is taken. The coarse grid keeps the levels apart: they cannot follow every value as those of k-means do.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "quantize/solve/levels.h"

namespace nibble {

inline constexpr int kMostBinaryBits = 3, kMostLinearBits = 6;
inline constexpr size_t kBinaryTries = 128;  // codings that are tried under all scales

// o + sum of c_i e_i for all e in {0, 1}^k, ascending and distinct, with o >= 0, 1 <= c_1 < .. < c_k and the greatest
// of them below 2^n.
struct BinaryCode {
  std::array<uint8_t, 1 << kMostBinaryBits> levels;  // 2^k of them
};
std::vector<BinaryCode> binary_codes(int linear_bits, int bits);

struct BinaryOptions {
  int linear_bits = 5;  // of the first step: 3 .. kMostLinearBits, more than the bits of the codes
  // Scales tried: that of the values' range times 1 + i / 50 for -scales <= i <= scales.
  int scales = 10;
};

// For runs of 2^1 .. 2^kMostBinaryBits levels.
MakeLevelFit make_binary(const BinaryOptions& options);

}  // namespace nibble
