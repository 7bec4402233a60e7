// The arithmetic of rounding to a block format, of which kernels/abi/token.h is the definition: scales as exponents,
// and levels without a table. A number is divided by the step of its exponent, rounded, and multiplied again.
//
// Everything here has internal linkage on purpose: no other translation unit may end up with code compiled for AVX2.
#pragma once

#include <immintrin.h>

#include "kernels/abi/token.h"

namespace nibble::avx2 {
namespace {

constexpr uint32_t kInfinity = 0x7F800000, kMantissa = 0x7FFFFF;

inline uint32_t bits_of(float x) { return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_castps_si128(_mm_set_ss(x)))); }
inline float float_of(uint32_t bits) {
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(bits))));
}
inline int exponent_of(float x) { return static_cast<int>(bits_of(x) >> 23 & 255) - 127; }
inline float power(int exponent) {  // from -127 on
  return exponent > -127 ? float_of(static_cast<uint32_t>(exponent + 127) << 23) : float_of(1u << 22);
}
inline int clamped(int value, int least, int most) { return value < least ? least : value > most ? most : value; }

// |u| to a multiple of 2^(max(exponent, least exponent) - mantissa_bits).
struct Steps {
  __m256i least;  // biased exponent of the step that the least exponent has
  __m256i mantissa_bits;
};

inline __m256 to_multiple(__m256 a, const Steps& steps, bool away) {
  const __m256i exponent = _mm256_srli_epi32(_mm256_castps_si256(a), 23);
  const __m256i biased = _mm256_max_epi32(_mm256_sub_epi32(exponent, steps.mantissa_bits), steps.least);
  const __m256 step = _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  // 1 / step: exponents add up to 254.
  const __m256 inverse = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_sub_epi32(_mm256_set1_epi32(254), biased), 23));
  const __m256 count = _mm256_mul_ps(a, inverse);
  __m256 whole = _mm256_round_ps(count, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  if (away) {
    const __m256 tie = _mm256_cmp_ps(_mm256_sub_ps(count, whole), _mm256_set1_ps(0.5f), _CMP_EQ_OQ);
    whole = _mm256_add_ps(whole, _mm256_and_ps(tie, _mm256_set1_ps(1)));
  }
  return _mm256_mul_ps(whole, step);
}

inline __m256 to_power(__m256 a, float least) {
  const __m256i fraction = _mm256_set1_epi32(static_cast<int>(kMantissa)), bits = _mm256_castps_si256(a);
  const __m256i up =
      _mm256_cmpgt_epi32(_mm256_and_si256(bits, fraction), _mm256_set1_epi32(static_cast<int>(kRootOfTwo)));
  const __m256i exponent =
      _mm256_add_epi32(_mm256_andnot_si256(fraction, bits), _mm256_and_si256(up, _mm256_set1_epi32(1 << 23)));
  const __m256 below = _mm256_cmp_ps(a, _mm256_set1_ps(least), _CMP_LT_OQ);
  const __m256 zero = _mm256_cmp_ps(a, _mm256_set1_ps(least / 2), _CMP_LE_OQ);
  return _mm256_andnot_ps(zero, _mm256_blendv_ps(_mm256_castsi256_ps(exponent), _mm256_set1_ps(least), below));
}

// The levels of one format.
struct Levels {
  explicit Levels(const RoundArgs& args)
      : rounding(args.rounding),
        steps{_mm256_set1_epi32(args.least_exponent - args.mantissa_bits + 127), _mm256_set1_epi32(args.mantissa_bits)},
        least(_mm256_set1_ps(args.least)),
        greatest(_mm256_set1_ps(args.greatest)),
        beyond(_mm256_set1_ps(2 * args.greatest)),
        least_power(args.rounding == Rounding::powers ? power(args.least_exponent) : 0) {}

  __m256 nearest(__m256 u) const {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    // No level lies beyond `beyond`, and what is greater might have no exponent left.
    const __m256 a = _mm256_min_ps(_mm256_andnot_ps(sign, u), beyond);
    const __m256 magnitude =
        rounding == Rounding::powers ? to_power(a, least_power) : to_multiple(a, steps, rounding == Rounding::away);
    const __m256 level = _mm256_or_ps(magnitude, _mm256_and_ps(sign, u));
    return _mm256_min_ps(_mm256_max_ps(level, least), greatest);
  }

  Rounding rounding;
  Steps steps;
  __m256 least, greatest, beyond;
  float least_power;
};

}  // namespace
}  // namespace nibble::avx2
