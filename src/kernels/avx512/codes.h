// Codes of keys and values (kernels/abi/attention.h): sixteen lanes of one row at a time, blocks going down the rows.
// Reading takes 3 to 10 operations per 16 codes: a table of 16 in one register, or shifts that put exponent and
// mantissa where a float has them.
//
// Everything here has internal linkage on purpose: no other translation unit may end up with code compiled for AVX-512.
#pragma once

#include "kernels/avx512/intrinsics.h"

#include "kernels/abi/attention.h"
#include "kernels/avx512/rounding.h"

namespace nibble::avx512 {
namespace {

// --- reading: each has kBytes a row and gives the level of its codes, less the unit ---------------------------------

struct TableCodes {  // up to 4 bits
  static constexpr int64_t kBytes = 8;
  explicit TableCodes(const StoredFormat& format) : table(_mm512_loadu_ps(format.levels)) {}
  __m512 load(const uint8_t* p) const {
    const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i both = _mm_unpacklo_epi64(low, _mm_srli_epi16(low, 4));  // higher bits are not looked at
    return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(both), table);
  }
  static float unit(const StoredFormat&) { return 1; }
  __m512 table;
};

// Codes of 5, 6 or 8 bits, each at the top of its byte.
template <int kBits>
__m128i load_codes(const uint8_t* p) {
  if constexpr (kBits == 8) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  const __m128i upper = _mm_and_si128(_mm_unpacklo_epi64(_mm_slli_epi16(low, 4), low), _mm_set1_epi8(-16));
  if constexpr (kBits == 5) {
    __mmask16 lowest;
    __builtin_memcpy(&lowest, p + 8, sizeof lowest);
    return _mm_or_si128(upper, _mm_and_si128(_mm_movm_epi8(lowest), _mm_set1_epi8(8)));
  }
  int pairs;
  __builtin_memcpy(&pairs, p + 8, sizeof pairs);
  const __m128i turned = _mm_rorv_epi32(_mm_set1_epi32(pairs), _mm_setr_epi32(30, 0, 2, 4));
  return _mm_or_si128(upper, _mm_and_si128(turned, _mm_set1_epi8(12)));
}

template <int kBits>
struct IntegerCodes {
  static constexpr int64_t kBytes = 2 * kBits;
  explicit IntegerCodes(const StoredFormat&) {}
  __m512 load(const uint8_t* p) const { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_codes<kBits>(p))); }
  static float unit(const StoredFormat&) { return 1.0f / (1 << (8 - kBits)); }
};

template <int kBits>
struct MinifloatCodes {
  static constexpr int64_t kBytes = 2 * kBits;
  explicit MinifloatCodes(const StoredFormat& format)
      : shift(_mm_cvtsi32_si128(format.half_shift - (8 - kBits))),
        mask(_mm256_set1_epi16(static_cast<int16_t>(0x8000 | 127 << (format.half_shift - (8 - kBits))))) {}
  __m512 load(const uint8_t* p) const {
    const __m256i words = _mm256_cvtepi8_epi16(load_codes<kBits>(p));
    return _mm512_cvtph_ps(_mm256_and_si256(_mm256_sll_epi16(words, shift), mask));
  }
  static float unit(const StoredFormat& format) { return format.unit; }
  __m128i shift;
  __m256i mask;
};

template <int kBits>
struct PowerCodes {
  static constexpr int64_t kBytes = 2 * kBits;
  static constexpr int kMagnitudes = 1 << (kBits - 1);
  explicit PowerCodes(const StoredFormat&) {}
  __m512 load(const uint8_t* p) const {
    const __m512i wide = _mm512_slli_epi32(_mm512_cvtepi8_epi32(load_codes<kBits>(p)), 23 - (8 - kBits));
    constexpr uint32_t kMask = 0x80000000 | static_cast<uint32_t>(kMagnitudes - 1) << 23;
    const __m512 power = _mm512_castsi512_ps(_mm512_and_si512(wide, _mm512_set1_epi32(static_cast<int>(kMask))));
    if constexpr (kBits == 8) return power;
    return _mm512_mul_ps(power, _mm512_set1_ps(float_of((255u - kMagnitudes) << 23)));
  }
  static float unit(const StoredFormat&) { return 1; }
};

// 2^(byte - 127), infinity for 255.
inline __m512 to_scales(__m512i bytes) {
  const __m512i subnormal = _mm512_set1_epi32(1 << 22);
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_slli_epi32(bytes, 23), subnormal));
}

// E4M3 numbers are float16 numbers whose exponent has another bias.
constexpr int kE4m3Shift = 7;
constexpr float kE4m3Unit = 256;
constexpr uint8_t kE4m3Nan = 127;

// E4M3 numbers without sign, infinity for NaN.
inline __m512 from_e4m3(__m128i bytes) {
  const __m256i halves = _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), kE4m3Shift);
  const __m512 numbers = _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(kE4m3Unit));
  return _mm512_mask_mov_ps(numbers, _mm_cmpeq_epi8_mask(bytes, _mm_set1_epi8(kE4m3Nan)),
                            _mm512_set1_ps(__builtin_inff()));
}

// Opens rows of codes into floats.
template <class Codes>
struct Opening {
  static constexpr int64_t kBytes = Codes::kBytes;
  Codes codes;
  __m512 unit, constant;
  bool e4m3;
  explicit Opening(const StoredFormat& format)
      : codes(format),
        unit(_mm512_set1_ps(Codes::unit(format))),
        constant(_mm512_set1_ps(format.rounding.constant * Codes::unit(format))),
        e4m3(format.outer()) {}

  // The scales of 16 lanes times the unit; null: the constant. 0 * infinity makes a block of NaN of zeros. `outer`:
  // what multiplies E4M3 scales.
  __m512 scales(const uint8_t* from, __m512 outer) const {
    if (from == nullptr) return constant;
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    const __m512 scale = e4m3 ? _mm512_mul_ps(from_e4m3(bytes), outer) : to_scales(_mm512_cvtepu8_epi32(bytes));
    return _mm512_mul_ps(scale, unit);
  }
  // The outer scales of 16 positions, or of 16 outputs of one.
  __m512 outers(const uint8_t* from) const {
    if (!e4m3) return unit;
    return to_scales(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  __m512 outer(const uint8_t* from) const { return e4m3 ? to_scales(_mm512_set1_epi32(*from)) : unit; }
  // Meanwhile as much is fetched from `ahead`, row for row.
  void rows(const uint8_t* from, const uint8_t* ahead, int64_t stride, __m512 scale, int64_t count, float* to,
            int64_t to_stride) const {
    for (int64_t i = 0; i < count; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead + i * stride), _MM_HINT_T1);
      _mm512_store_ps(to + i * to_stride, _mm512_mul_ps(codes.load(from + i * stride), scale));
    }
  }
};

template <int kBits, class Body>
void with_wide_codes(const StoredFormat& format, const Body& body) {
  if (format.as == Stored::integers) return body(Opening<IntegerCodes<kBits>>(format));
  if (format.as == Stored::minifloats) return body(Opening<MinifloatCodes<kBits>>(format));
  body(Opening<PowerCodes<kBits>>(format));
}

// body(an Opening of this format). Of 5 bits there are integers only.
template <class Body>
void with_codes(const StoredFormat& format, const Body& body) {
  if (format.code_bits == 4) return body(Opening<TableCodes>(format));
  if (format.code_bits == 5) return body(Opening<IntegerCodes<5>>(format));
  if (format.code_bits == 6) return with_wide_codes<6>(format, body);
  with_wide_codes<8>(format, body);
}

// --- writing --------------------------------------------------------------------------------------------------------

// Rows of 16 lanes to codes: a block and its scales, lane by lane.
struct Encoder {
  const StoredFormat& format;
  Levels levels;
  explicit Encoder(const StoredFormat& stored) : format(stored), levels(stored.rounding) {}

  // Sixteen codes in the low bytes of 32-bit lanes, not yet cut to their bits.
  __m512i codes(__m512 level) const {
    if (format.as == Stored::integers) return _mm512_cvtps_epi32(level);
    const __m512i bits = _mm512_castps_si512(level);
    const __m512i sign = _mm512_slli_epi32(_mm512_srli_epi32(bits, 31), static_cast<unsigned>(format.code_bits - 1));
    const __m512 a = _mm512_andnot_ps(_mm512_set1_ps(-0.0f), level);
    if (format.as == Stored::minifloats) {
      const __m256i half = _mm512_cvtps_ph(_mm512_mul_ps(a, _mm512_set1_ps(1.0f / format.unit)), kNearest);
      return _mm512_or_si512(sign, _mm512_srl_epi32(_mm512_cvtepu16_epi32(half), _mm_cvtsi32_si128(format.half_shift)));
    }
    const __m512i exponent = _mm512_srli_epi32(_mm512_castps_si512(a), 23);
    const __m512i least = _mm512_set1_epi32(127 - (1 << (format.code_bits - 1)) + 1);
    return _mm512_or_si512(sign, _mm512_maskz_sub_epi32(_mm512_test_epi32_mask(exponent, exponent), exponent, least));
  }

  void put(__m512i code, uint8_t* to, __mmask16 lanes) const {
    const __m128i bytes = _mm512_cvtepi32_epi8(code);
    if (format.code_bits == 8) return _mm_mask_storeu_epi8(to, lanes, bytes);
    put_upper(_mm_srli_epi16(bytes, format.code_bits - 4), to, lanes);
    if (format.code_bits == 5) put_lowest(bytes, to + 8, lanes);
    if (format.code_bits == 6) put_pairs(bytes, to + 8, lanes);
  }

  // The low 4 bits of each byte.
  static void put_upper(__m128i bytes, uint8_t* to, __mmask16 lanes) {
    const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
    const __m128i pairs = _mm_or_si128(low, _mm_slli_epi16(_mm_srli_si128(low, 8), 4));
    const __m128i chosen = _mm_movm_epi8(lanes);
    const __m128i mask = _mm_or_si128(_mm_and_si128(chosen, _mm_set1_epi8(15)),
                                      _mm_and_si128(_mm_srli_si128(chosen, 8), _mm_set1_epi8(-16)));
    const __m128i old = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(to));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to),
                     _mm_or_si128(_mm_and_si128(mask, pairs), _mm_andnot_si128(mask, old)));
  }
  static void put_lowest(__m128i bytes, uint8_t* to, __mmask16 lanes) {
    uint16_t old;
    __builtin_memcpy(&old, to, sizeof old);
    const uint16_t bits = _mm_test_epi8_mask(bytes, _mm_set1_epi8(1));
    const auto both = static_cast<uint16_t>((bits & lanes) | (old & ~lanes));
    __builtin_memcpy(to, &both, sizeof both);
  }
  static void put_pairs(__m128i bytes, uint8_t* to, __mmask16 lanes) {
    uint32_t old;
    __builtin_memcpy(&old, to, sizeof old);
    const uint32_t mask = gathered_pairs(_mm_movm_epi8(lanes));
    const uint32_t both = (gathered_pairs(bytes) & mask) | (old & ~mask);
    __builtin_memcpy(to, &both, sizeof both);
  }
  // The low 2 bits of each byte.
  static uint32_t gathered_pairs(__m128i bytes) {
    __m128i v = _mm_sllv_epi32(_mm_and_si128(bytes, _mm_set1_epi8(3)), _mm_setr_epi32(0, 2, 4, 6));
    v = _mm_or_si128(v, _mm_srli_si128(v, 8));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_or_si128(v, _mm_srli_si128(v, 4))));
  }

  // The exponent's byte of the outer scale that values of these largest magnitudes share.
  __m512i outer_bytes(__m512i most) const {
    const __m512 scale = _mm512_div_ps(_mm512_castsi512_ps(most), _mm512_set1_ps(format.rounding.greatest * 448));
    const __m512i bits = _mm512_castps_si512(scale);
    const __mmask16 above = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(static_cast<int>(kMantissa)));
    __m512i e = _mm512_srli_epi32(bits, 23);
    e = _mm512_mask_add_epi32(e, above, e, _mm512_set1_epi32(1));
    e = _mm512_min_epi32(_mm512_max_epi32(e, _mm512_set1_epi32(27)), _mm512_set1_epi32(227));
    const __mmask16 some = _mm512_test_epi32_mask(most, most) &
                           _mm512_cmplt_epu32_mask(most, _mm512_set1_epi32(static_cast<int>(kInfinity)));
    return _mm512_mask_mov_epi32(_mm512_set1_epi32(127), some, e);
  }

  // What values are divided by, of blocks with these largest magnitudes, and in `bytes` the scales themselves.
  __m512 e4m3_scales(__m512i most, __m512 outer, __m512i& bytes) const {
    const __m512 ratio =
        _mm512_div_ps(_mm512_castsi512_ps(most), _mm512_mul_ps(_mm512_set1_ps(format.rounding.greatest), outer));
    const __m512 limited = _mm512_min_ps(_mm512_max_ps(ratio, _mm512_set1_ps(0x1p-9f)), _mm512_set1_ps(448));
    const Steps steps{_mm512_set1_epi32(-9 + 127), _mm512_set1_epi32(3)};
    const __m512 rounded = _mm512_min_ps(to_multiple(limited, steps, false), _mm512_set1_ps(448));
    const __m512 scale = _mm512_mask_mov_ps(_mm512_set1_ps(1), _mm512_test_epi32_mask(most, most), rounded);
    const __m256i halves = _mm512_cvtps_ph(_mm512_mul_ps(scale, _mm512_set1_ps(1 / kE4m3Unit)), kNearest);
    bytes = _mm512_cvtepu16_epi32(_mm256_srli_epi16(halves, kE4m3Shift));
    return _mm512_mul_ps(scale, outer);
  }

  // `scale` null: without scales of their own, and every number that is no number becomes 0 by itself. `outer`: of
  // E4M3 scales.
  void block(const float* x, int64_t x_stride, int64_t count, uint8_t* to, int64_t to_stride, uint8_t* scale,
             __m512 outer, __mmask16 lanes) const {
    const __m512i absolute = _mm512_set1_epi32(0x7FFFFFFF), infinity = _mm512_set1_epi32(static_cast<int>(kInfinity));
    __m512 inverse = _mm512_set1_ps(1.0f / format.rounding.constant), divisor = outer;
    __mmask16 finite = 0xFFFF;
    const bool e4m3 = format.outer();
    if (scale != nullptr) {
      __m512i most = _mm512_setzero_si512();
      for (int64_t i = 0; i < count; ++i)
        most =
            _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(x + i * x_stride)), absolute));
      finite = _mm512_cmplt_epu32_mask(most, infinity);
      __m512i bytes;
      if (e4m3) {
        divisor = e4m3_scales(most, outer, bytes);
      } else {
        bytes = scale_bytes(most);
        inverse = to_scales(_mm512_sub_epi32(_mm512_set1_epi32(254), bytes));
      }
      const __m512i nan = _mm512_set1_epi32(e4m3 ? kE4m3Nan : 255);
      _mm_mask_storeu_epi8(scale, lanes, _mm512_cvtepi32_epi8(_mm512_mask_mov_epi32(nan, finite, bytes)));
    }
    for (int64_t i = 0; i < count; ++i) {
      const __m512 value = _mm512_loadu_ps(x + i * x_stride);
      __mmask16 kept = finite;
      if (scale == nullptr)
        kept = _mm512_cmplt_epu32_mask(_mm512_and_si512(_mm512_castps_si512(value), absolute), infinity);
      const __m512 u = e4m3 ? _mm512_maskz_div_ps(kept, value, divisor) : _mm512_maskz_mul_ps(kept, value, inverse);
      put(codes(levels.nearest(u)), to + i * to_stride, lanes);
    }
  }

  // Of the largest magnitudes: 127 for 0.
  __m512i scale_bytes(__m512i most) const {
    const RoundArgs& rounding = format.rounding;
    const __m512i mantissa = _mm512_and_si512(most, _mm512_set1_epi32(static_cast<int>(kMantissa)));
    __m512i e = _mm512_sub_epi32(_mm512_srli_epi32(most, 23), _mm512_set1_epi32(rounding.shift));
    const __m512i one = _mm512_set1_epi32(1);
    e = _mm512_mask_add_epi32(
        e, _mm512_cmpge_epu32_mask(mantissa, _mm512_set1_epi32(static_cast<int>(rounding.up_from))), e, one);
    e = _mm512_mask_sub_epi32(
        e, _mm512_cmplt_epu32_mask(mantissa, _mm512_set1_epi32(static_cast<int>(rounding.down_below))), e, one);
    e = _mm512_min_epi32(_mm512_max_epi32(e, _mm512_setzero_si512()), _mm512_set1_epi32(format.most_exponent + 127));
    return _mm512_mask_mov_epi32(e, _mm512_cmpeq_epi32_mask(most, _mm512_setzero_si512()), _mm512_set1_epi32(127));
  }

  static constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
};

// --- bfloat16 -------------------------------------------------------------------------------------------------------

inline __m512 load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}

// Ties to even; NaN stays NaN.
inline __m256i to_bf16(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
  const __m512i nan = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  const __mmask16 ordered = _mm512_cmp_ps_mask(values, values, _CMP_ORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(nan, ordered, rounded));
}

}  // namespace
}  // namespace nibble::avx512
