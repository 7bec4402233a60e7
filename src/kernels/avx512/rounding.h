// The arithmetic of rounding to a block format, of which kernels/abi/token.h is the definition: scales as exponents,
// and levels without a table. A number is divided by the step of its exponent, rounded, and multiplied again.
//
// Everything here has internal linkage on purpose: no other translation unit may end up with code compiled for AVX-512.
#pragma once

#include "kernels/avx512/intrinsics.h"

#include "kernels/abi/token.h"

namespace nibble::avx512 {
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

inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << count) - 1);
}

// |u| of these bits to a multiple of 2^(max(exponent, least) - mantissa_bits), which `step_shift` and `least_step`
// give.
struct Steps {
  __m512i least;  // biased exponent of the step that the least exponent has
  __m512i mantissa_bits;
};

inline __m512 to_multiple(__m512 a, const Steps& steps, bool away) {
  const __m512i exponent = _mm512_srli_epi32(_mm512_castps_si512(a), 23);
  const __m512i biased = _mm512_max_epi32(_mm512_sub_epi32(exponent, steps.mantissa_bits), steps.least);
  const __m512 step = _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
  // 1 / step: exponents add up to 254.
  const __m512 inverse = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(254), biased), 23));
  const __m512 count = _mm512_mul_ps(a, inverse);
  __m512 whole = _mm512_roundscale_ps(count, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  if (away) {
    const __mmask16 tie = _mm512_cmp_ps_mask(_mm512_sub_ps(count, whole), _mm512_set1_ps(0.5f), _CMP_EQ_OQ);
    whole = _mm512_mask_add_ps(whole, tie, whole, _mm512_set1_ps(1));
  }
  return _mm512_mul_ps(whole, step);
}

inline __m512 to_power(__m512 a, float least) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i mantissa = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(kMantissa)));
  const __mmask16 up = _mm512_cmpgt_epu32_mask(mantissa, _mm512_set1_epi32(static_cast<int>(kRootOfTwo)));
  __m512i exponent = _mm512_andnot_si512(_mm512_set1_epi32(static_cast<int>(kMantissa)), bits);
  exponent = _mm512_mask_add_epi32(exponent, up, exponent, _mm512_set1_epi32(1 << 23));
  const __mmask16 below = _mm512_cmp_ps_mask(a, _mm512_set1_ps(least), _CMP_LT_OQ);
  const __mmask16 zero = _mm512_cmp_ps_mask(a, _mm512_set1_ps(least / 2), _CMP_LE_OQ);
  const __m512 magnitude = _mm512_mask_mov_ps(_mm512_castsi512_ps(exponent), below, _mm512_set1_ps(least));
  return _mm512_maskz_mov_ps(static_cast<__mmask16>(~zero), magnitude);
}

// The levels of one format.
struct Levels {
  explicit Levels(const RoundArgs& args)
      : rounding(args.rounding),
        steps{_mm512_set1_epi32(args.least_exponent - args.mantissa_bits + 127), _mm512_set1_epi32(args.mantissa_bits)},
        least(_mm512_set1_ps(args.least)),
        greatest(_mm512_set1_ps(args.greatest)),
        beyond(_mm512_set1_ps(2 * args.greatest)),
        least_power(args.rounding == Rounding::powers ? power(args.least_exponent) : 0) {}

  __m512 nearest(__m512 u) const {
    const __m512 sign = _mm512_set1_ps(-0.0f);
    // No level lies beyond `beyond`, and what is greater might have no exponent left.
    const __m512 a = _mm512_min_ps(_mm512_andnot_ps(sign, u), beyond);
    const __m512 magnitude =
        rounding == Rounding::powers ? to_power(a, least_power) : to_multiple(a, steps, rounding == Rounding::away);
    const __m512 level = _mm512_or_ps(magnitude, _mm512_and_ps(sign, u));
    return _mm512_min_ps(_mm512_max_ps(level, least), greatest);
  }

  Rounding rounding;
  Steps steps;
  __m512 least, greatest, beyond;
  float least_power;
};

}  // namespace
}  // namespace nibble::avx512
