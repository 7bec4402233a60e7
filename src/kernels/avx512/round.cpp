// Rounding of activation rows to block formats: for each block one pass for its largest magnitude, one for the levels.
// kernels/abi/token.h is the definition, operation by operation; dividing by a power of two is multiplying by its
// inverse.
//
// Levels without a table: adding and subtracting 2^23 times the step of a number's exponent rounds it to a multiple of
// that step. Per 16 values about 12 operations, two divisions more for E4M3 scales.
#include "kernels/avx512/intrinsics.h"
#include "kernels/avx512/rows.h"

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

// The largest |x| as bits: infinity or more where a value is no number.
inline uint32_t absmax_bits(const float* x, int64_t count) {
  const __m512i absolute = _mm512_set1_epi32(0x7FFFFFFF);
  __m512i most = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += 16) {
    const __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(first_lanes(count - i), x + i));
    most = _mm512_max_epu32(most, _mm512_and_si512(bits, absolute));
  }
  return _mm512_reduce_max_epu32(most);
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

float to_e4m3(float scale) {
  constexpr float kLeast = 0x1p-9f, kMost = 448;
  scale = scale < kLeast ? kLeast : scale > kMost ? kMost : scale;
  const Steps steps{_mm512_set1_epi32(-9 + 127), _mm512_set1_epi32(3)};
  const float rounded = _mm512_cvtss_f32(to_multiple(_mm512_set1_ps(scale), steps, false));
  return rounded < kMost ? rounded : kMost;
}

float row_scale(const RoundArgs& args) {
  if (args.scale != BlockScale::e4m3) return 1;
  const uint32_t bits = absmax_bits(args.x, args.count);
  if (bits == 0 || bits >= kInfinity) return 1;
  const float scale = float_of(bits) / (args.greatest * 448);
  return power(clamped(exponent_of(scale) + ((bits_of(scale) & kMantissa) != 0), -100, 100));
}

float block_scale(const RoundArgs& args, uint32_t most, float of_row) {
  if (args.scale == BlockScale::constant) return args.constant;
  if (args.scale == BlockScale::e4m3)
    return most == 0 ? of_row : to_e4m3(float_of(most) / (args.greatest * of_row)) * of_row;
  const uint32_t mantissa = most & kMantissa;
  const int exponent = static_cast<int>(most >> 23) - 127;
  return power(clamped(exponent - args.shift + (mantissa >= args.up_from) - (mantissa < args.down_below), -127, 127));
}

// To bfloat16, ties to even; the values are no NaN.
inline __m256i to_halves(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

}  // namespace

void round(const RoundArgs& args) {
  const Levels levels(args);
  const float of_row = row_scale(args);
  for (int64_t begin = 0, count; begin < args.count; begin += count) {
    count = args.block < args.count - begin ? args.block : args.count - begin;
    const uint32_t most = absmax_bits(args.x + begin, count);
    const float of_block = block_scale(args, most, of_row);
    const __m512 scale = _mm512_set1_ps(of_block);
    const bool exact = args.scale != BlockScale::e4m3;  // a power of two
    const __m512 inverse = _mm512_set1_ps(1.0f / of_block);
    for (int64_t i = 0; i < count; i += 16) {
      const __mmask16 lanes = first_lanes(count - i);
      const __m512 x = _mm512_maskz_loadu_ps(lanes, args.x + begin + i);
      const __m512 u = exact ? _mm512_mul_ps(x, inverse) : _mm512_div_ps(x, scale);
      __m256i halves = to_halves(_mm512_mul_ps(scale, levels.nearest(u)));
      if (most >= kInfinity) halves = _mm256_set1_epi16(0x7FC0);
      _mm256_mask_storeu_epi16(args.y + begin + i, lanes, halves);
    }
  }
}

}  // namespace nibble::avx512
