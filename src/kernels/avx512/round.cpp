// Rounding of activation rows to block formats: for each block one pass for its largest magnitude, one for the levels.
// kernels/abi/token.h is the definition, operation by operation; dividing by a power of two is multiplying by its
// inverse.
//
// Levels without a table: adding and subtracting 2^23 times the step of a number's exponent rounds it to a multiple of
// that step. Per 16 values about 12 operations, two divisions more for E4M3 scales.
#include "kernels/avx512/intrinsics.h"
#include "kernels/avx512/rounding.h"
#include "kernels/avx512/rows.h"

namespace nibble::avx512 {
namespace {

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

float to_e4m3(float scale) {
  constexpr float kLeast = 0x1p-9f, kMost = 448;
  scale = scale < kLeast ? kLeast : scale > kMost ? kMost : scale;
  const Steps steps{_mm512_set1_epi32(-9 + 127), _mm512_set1_epi32(3)};
  const float rounded = _mm512_cvtss_f32(to_multiple(_mm512_set1_ps(scale), steps, false));
  return rounded < kMost ? rounded : kMost;
}

float row_scale(const RoundArgs& args) {
  if (args.scale != BlockScale::e4m3) return 1;
  if (args.outer > 0) return args.outer;
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
