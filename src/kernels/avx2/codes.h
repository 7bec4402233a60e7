// Codes of keys and values (kernels/abi/attention.h): sixteen lanes of one row at a time, two registers of floats;
// blocks go down the rows.
//
// Everything here has internal linkage on purpose: no other translation unit may end up with code compiled for AVX2.
#pragma once

#include "kernels/abi/attention.h"
#include "kernels/avx2/rounding.h"

namespace nibble::avx2 {
namespace {

struct Lanes {
  __m256 low, high;
};

inline __m128i load_16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline __m128i load_8(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }

// --- reading: each has kBytes a row and gives the level of its codes, less the unit ---------------------------------

struct TableCodes {  // up to 4 bits
  static constexpr int64_t kBytes = 8;
  explicit TableCodes(const StoredFormat& format)
      : first(_mm256_loadu_ps(format.levels)), second(_mm256_loadu_ps(format.levels + 8)) {}
  __m256 look_up(__m128i bytes) const {
    const __m256i code = _mm256_cvtepu8_epi32(bytes);  // permutevar looks at three bits
    const __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(first, code), _mm256_permutevar8x32_ps(second, code), fourth);
  }
  Lanes load(const uint8_t* p) const {
    const __m128i bytes = load_8(p);
    return {look_up(bytes), look_up(_mm_srli_epi16(bytes, 4))};
  }
  static float unit(const StoredFormat&) { return 1; }
  __m256 first, second;
};

// Codes of 5, 6 or 8 bits, each at the top of its byte: eight low, eight in the low half of `high`.
struct CodeBytes {
  __m128i low, high;
};
template <int kBits>
CodeBytes load_codes(const uint8_t* p) {
  if constexpr (kBits == 8) return {load_8(p), load_8(p + 8)};
  const __m128i both = load_8(p);
  __m128i lower;
  if constexpr (kBits == 5) {
    uint16_t lowest;
    __builtin_memcpy(&lowest, p + 8, sizeof lowest);
    const __m128i spread = _mm_shuffle_epi8(_mm_cvtsi32_si128(lowest), _mm_set_epi64x(0x0101010101010101, 0));
    const __m128i bit = _mm_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    lower = _mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(spread, bit), bit), _mm_set1_epi8(8));
  } else {
    int pairs;
    __builtin_memcpy(&pairs, p + 8, sizeof pairs);
    const __m128i top = _mm_sllv_epi32(_mm_set1_epi32(pairs), _mm_setr_epi32(6, 4, 2, 0));
    lower = _mm_and_si128(_mm_srli_epi16(top, 4), _mm_set1_epi8(12));
  }
  const __m128i upper = _mm_and_si128(_mm_unpacklo_epi64(_mm_slli_epi16(both, 4), both), _mm_set1_epi8(-16));
  const __m128i bytes = _mm_or_si128(upper, lower);
  return {bytes, _mm_unpackhi_epi64(bytes, bytes)};
}

template <int kBits>
struct IntegerCodes {
  static constexpr int64_t kBytes = 2 * kBits;
  explicit IntegerCodes(const StoredFormat&) {}
  Lanes load(const uint8_t* p) const {
    const CodeBytes bytes = load_codes<kBits>(p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes.low)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes.high))};
  }
  static float unit(const StoredFormat&) { return 1.0f / (1 << (8 - kBits)); }
};

template <int kBits>
struct MinifloatCodes {
  static constexpr int64_t kBytes = 2 * kBits;
  explicit MinifloatCodes(const StoredFormat& format)
      : shift(_mm_cvtsi32_si128(format.half_shift - (8 - kBits))),
        mask(_mm_set1_epi16(static_cast<int16_t>(0x8000 | 127 << (format.half_shift - (8 - kBits))))) {}
  __m256 widened(__m128i bytes) const {
    return _mm256_cvtph_ps(_mm_and_si128(_mm_sll_epi16(_mm_cvtepi8_epi16(bytes), shift), mask));
  }
  Lanes load(const uint8_t* p) const {
    const CodeBytes bytes = load_codes<kBits>(p);
    return {widened(bytes.low), widened(bytes.high)};
  }
  static float unit(const StoredFormat& format) { return format.unit; }
  __m128i shift, mask;
};

template <int kBits>
struct PowerCodes {
  static constexpr int64_t kBytes = 2 * kBits;
  static constexpr int kMagnitudes = 1 << (kBits - 1);
  explicit PowerCodes(const StoredFormat&) {}
  static __m256 widened(__m128i bytes) {
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepi8_epi32(bytes), 23 - (8 - kBits));
    constexpr uint32_t kMask = 0x80000000 | static_cast<uint32_t>(kMagnitudes - 1) << 23;
    const __m256 power = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(kMask))));
    if constexpr (kBits == 8) return power;
    return _mm256_mul_ps(power, _mm256_set1_ps(float_of((255u - kMagnitudes) << 23)));
  }
  Lanes load(const uint8_t* p) const {
    const CodeBytes bytes = load_codes<kBits>(p);
    return {widened(bytes.low), widened(bytes.high)};
  }
  static float unit(const StoredFormat&) { return 1; }
};

// 2^(byte - 127), infinity for 255.
inline __m256 to_scales(__m256i bytes) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_slli_epi32(bytes, 23), _mm256_set1_epi32(1 << 22)));
}

// E4M3 numbers are float16 numbers whose exponent has another bias.
constexpr int kE4m3Shift = 7;
constexpr float kE4m3Unit = 256;
constexpr uint8_t kE4m3Nan = 127;

// Eight E4M3 numbers without sign, infinity for NaN.
inline __m256 from_e4m3(__m128i bytes) {
  const __m128i halves = _mm_slli_epi16(_mm_cvtepu8_epi16(bytes), kE4m3Shift);
  const __m256 numbers = _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(kE4m3Unit));
  const __m256i nan = _mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(kE4m3Nan));
  return _mm256_blendv_ps(numbers, _mm256_set1_ps(__builtin_inff()), _mm256_castsi256_ps(nan));
}

// Opens rows of codes into floats.
template <class Codes>
struct Opening {
  static constexpr int64_t kBytes = Codes::kBytes;
  Codes codes;
  __m256 unit, constant;
  bool e4m3;
  explicit Opening(const StoredFormat& format)
      : codes(format),
        unit(_mm256_set1_ps(Codes::unit(format))),
        constant(_mm256_set1_ps(format.rounding.constant * Codes::unit(format))),
        e4m3(format.outer()) {}

  // The scales of 16 lanes times the unit; null: the constant. 0 * infinity makes a block of NaN of zeros. `outer`:
  // what multiplies E4M3 scales.
  Lanes scales(const uint8_t* from, Lanes outer) const {
    if (from == nullptr) return {constant, constant};
    return {eight_scales(load_8(from), outer.low), eight_scales(load_8(from + 8), outer.high)};
  }
  __m256 eight_scales(__m128i bytes, __m256 outer) const {
    const __m256 scale = e4m3 ? _mm256_mul_ps(from_e4m3(bytes), outer) : to_scales(_mm256_cvtepu8_epi32(bytes));
    return _mm256_mul_ps(scale, unit);
  }
  // The outer scales of 16 positions, or of 16 outputs of one.
  Lanes outers(const uint8_t* from) const {
    if (!e4m3) return {unit, unit};
    return {to_scales(_mm256_cvtepu8_epi32(load_8(from))), to_scales(_mm256_cvtepu8_epi32(load_8(from + 8)))};
  }
  Lanes outer(const uint8_t* from) const {
    const __m256 all = e4m3 ? to_scales(_mm256_set1_epi32(*from)) : unit;
    return {all, all};
  }
  // Meanwhile as much is fetched from `ahead`, row for row.
  void rows(const uint8_t* from, const uint8_t* ahead, int64_t stride, Lanes scale, int64_t count, float* to,
            int64_t to_stride) const {
    for (int64_t i = 0; i < count; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead + i * stride), _MM_HINT_T1);
      const Lanes level = codes.load(from + i * stride);
      _mm256_store_ps(to + i * to_stride, _mm256_mul_ps(level.low, scale.low));
      _mm256_store_ps(to + i * to_stride + 8, _mm256_mul_ps(level.high, scale.high));
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

// All ones in the bytes of lanes [begin, end).
inline __m128i byte_lanes(int64_t begin, int64_t end) {
  const __m128i lane = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm_andnot_si128(_mm_cmpgt_epi8(_mm_set1_epi8(static_cast<int8_t>(begin)), lane),
                          _mm_cmpgt_epi8(_mm_set1_epi8(static_cast<int8_t>(end)), lane));
}

// The low bytes of 16 lanes of 32 bits.
inline __m128i low_bytes(__m256i low, __m256i high) {
  const __m256i mask = _mm256_set1_epi32(255);
  const __m256i words = _mm256_packus_epi32(_mm256_and_si256(low, mask), _mm256_and_si256(high, mask));
  const __m256i bytes = _mm256_packus_epi16(words, words);  // of lanes 0-3 and 8-11, then of the others
  return _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
}

inline __m128i blended(__m128i old, __m128i with, __m128i mask) {
  return _mm_or_si128(_mm_and_si128(mask, with), _mm_andnot_si128(mask, old));
}

// Rows of 16 lanes to codes: a block and its scales, lane by lane.
struct Encoder {
  const StoredFormat& format;
  Levels levels;
  explicit Encoder(const StoredFormat& stored) : format(stored), levels(stored.rounding) {}

  // Codes in the low bytes of 32-bit lanes, not yet cut to their bits.
  __m256i codes(__m256 level) const {
    if (format.as == Stored::integers) return _mm256_cvtps_epi32(level);
    const __m256i bits = _mm256_castps_si256(level);
    const __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(bits, 31), format.code_bits - 1);
    const __m256 a = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), level);
    if (format.as == Stored::minifloats) {
      const __m128i half = _mm256_cvtps_ph(_mm256_mul_ps(a, _mm256_set1_ps(1.0f / format.unit)), kNearest);
      return _mm256_or_si256(sign, _mm256_srl_epi32(_mm256_cvtepu16_epi32(half), _mm_cvtsi32_si128(format.half_shift)));
    }
    const __m256i exponent = _mm256_srli_epi32(_mm256_castps_si256(a), 23);
    const __m256i least = _mm256_set1_epi32(127 - (1 << (format.code_bits - 1)) + 1);
    return _mm256_or_si256(sign, _mm256_max_epi32(_mm256_sub_epi32(exponent, least), _mm256_setzero_si256()));
  }

  void put(__m128i bytes, uint8_t* to, __m128i lanes) const {
    if (format.code_bits == 8)
      return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), blended(load_16(to), bytes, lanes));
    put_upper(_mm_srli_epi16(bytes, format.code_bits - 4), to, lanes);
    if (format.code_bits == 5) put_lowest(bytes, to + 8, lanes);
    if (format.code_bits == 6) put_pairs(bytes, to + 8, lanes);
  }

  // The low 4 bits of each byte.
  static void put_upper(__m128i bytes, uint8_t* to, __m128i lanes) {
    const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
    const __m128i pairs = _mm_or_si128(low, _mm_slli_epi16(_mm_srli_si128(low, 8), 4));
    const __m128i mask = _mm_or_si128(_mm_and_si128(lanes, _mm_set1_epi8(15)),
                                      _mm_and_si128(_mm_srli_si128(lanes, 8), _mm_set1_epi8(-16)));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), blended(load_8(to), pairs, mask));
  }
  static void put_lowest(__m128i bytes, uint8_t* to, __m128i lanes) {
    uint16_t old;
    __builtin_memcpy(&old, to, sizeof old);
    const int bits = _mm_movemask_epi8(_mm_slli_epi16(bytes, 7)), mask = _mm_movemask_epi8(lanes);
    const auto both = static_cast<uint16_t>((bits & mask) | (old & ~mask));
    __builtin_memcpy(to, &both, sizeof both);
  }
  static void put_pairs(__m128i bytes, uint8_t* to, __m128i lanes) {
    uint32_t old;
    __builtin_memcpy(&old, to, sizeof old);
    const uint32_t mask = gathered_pairs(lanes);
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
  __m256i outer_bytes(__m256i most) const {
    const __m256 scale = _mm256_div_ps(_mm256_castsi256_ps(most), _mm256_set1_ps(format.rounding.greatest * 448));
    const __m256i bits = _mm256_castps_si256(scale), zero = _mm256_setzero_si256();
    const __m256i mantissa = _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(kMantissa)));
    __m256i e = _mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_cmpgt_epi32(mantissa, zero));
    e = _mm256_min_epi32(_mm256_max_epi32(e, _mm256_set1_epi32(27)), _mm256_set1_epi32(227));
    const __m256i some = _mm256_and_si256(_mm256_cmpgt_epi32(most, zero), Half::below_infinity(most));
    return _mm256_blendv_epi8(_mm256_set1_epi32(127), e, some);
  }

  // What values are divided by, of blocks with these largest magnitudes, and in `bytes` the scales themselves.
  __m256 e4m3_scales(__m256i most, __m256 outer, __m256i& bytes) const {
    const __m256 ratio =
        _mm256_div_ps(_mm256_castsi256_ps(most), _mm256_mul_ps(_mm256_set1_ps(format.rounding.greatest), outer));
    const __m256 limited = _mm256_min_ps(_mm256_max_ps(ratio, _mm256_set1_ps(0x1p-9f)), _mm256_set1_ps(448));
    const Steps steps{_mm256_set1_epi32(-9 + 127), _mm256_set1_epi32(3)};
    const __m256 rounded = _mm256_min_ps(to_multiple(limited, steps, false), _mm256_set1_ps(448));
    const __m256i none = _mm256_cmpeq_epi32(most, _mm256_setzero_si256());
    const __m256 scale = _mm256_blendv_ps(rounded, _mm256_set1_ps(1), _mm256_castsi256_ps(none));
    const __m128i halves = _mm256_cvtps_ph(_mm256_mul_ps(scale, _mm256_set1_ps(1 / kE4m3Unit)), kNearest);
    bytes = _mm256_cvtepu16_epi32(_mm_srli_epi16(halves, kE4m3Shift));
    return _mm256_mul_ps(scale, outer);
  }

  // `scale` null: without scales of their own, and every number that is no number becomes 0 by itself. `outer`: of
  // E4M3 scales.
  void block(const float* x, int64_t x_stride, int64_t count, uint8_t* to, int64_t to_stride, uint8_t* scale,
             Lanes outer, __m128i lanes) const {
    Half low(*this, outer.low), high(*this, outer.high);
    if (scale != nullptr) {
      for (int64_t i = 0; i < count; ++i) {
        low.widen(x + i * x_stride);
        high.widen(x + i * x_stride + 8);
      }
      const __m128i bytes = low_bytes(low.choose(*this), high.choose(*this));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(scale), blended(load_16(scale), bytes, lanes));
    }
    for (int64_t i = 0; i < count; ++i) {
      const __m256i a = low.encode(*this, x + i * x_stride, scale == nullptr);
      const __m256i b = high.encode(*this, x + i * x_stride + 8, scale == nullptr);
      put(low_bytes(a, b), to + i * to_stride, lanes);
    }
  }

  // Eight lanes of a block.
  struct Half {
    __m256i most = _mm256_setzero_si256(), finite = _mm256_set1_epi32(-1);
    __m256 inverse, divisor;  // what x is multiplied with, or with E4M3 scales divided by
    Half(const Encoder& encoder, __m256 outer)
        : inverse(_mm256_set1_ps(1.0f / encoder.format.rounding.constant)), divisor(outer) {}

    static __m256i magnitudes(const float* x) {
      return _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x)), _mm256_set1_epi32(0x7FFFFFFF));
    }
    static __m256i below_infinity(__m256i bits) {
      return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(kInfinity)), bits);
    }
    void widen(const float* x) { most = _mm256_max_epi32(most, magnitudes(x)); }
    // The scales' bytes.
    __m256i choose(const Encoder& encoder) {
      finite = below_infinity(most);
      if (encoder.format.outer()) {
        __m256i bytes;
        divisor = encoder.e4m3_scales(most, divisor, bytes);
        return _mm256_blendv_epi8(_mm256_set1_epi32(kE4m3Nan), bytes, finite);
      }
      const __m256i bytes = encoder.scale_bytes(most);
      inverse = to_scales(_mm256_sub_epi32(_mm256_set1_epi32(254), bytes));
      return _mm256_blendv_epi8(_mm256_set1_epi32(255), bytes, finite);
    }
    __m256i encode(const Encoder& encoder, const float* x, bool alone) const {
      const __m256i kept = alone ? below_infinity(magnitudes(x)) : finite;
      const __m256 value = _mm256_loadu_ps(x);
      const __m256 level = encoder.format.outer() ? _mm256_div_ps(value, divisor) : _mm256_mul_ps(value, inverse);
      const __m256 u = _mm256_and_ps(_mm256_castsi256_ps(kept), level);
      return encoder.codes(encoder.levels.nearest(u));
    }
  };

  // Of the largest magnitudes: 127 for 0.
  __m256i scale_bytes(__m256i most) const {
    const RoundArgs& rounding = format.rounding;
    constexpr uint32_t kNever = kMantissa + 1;  // comparisons are signed
    const uint32_t from = rounding.up_from < kNever ? rounding.up_from : kNever;
    const __m256i mantissa = _mm256_and_si256(most, _mm256_set1_epi32(static_cast<int>(kMantissa)));
    const __m256i up = _mm256_cmpgt_epi32(mantissa, _mm256_set1_epi32(static_cast<int>(from) - 1));
    const __m256i down = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(rounding.down_below)), mantissa);
    __m256i e = _mm256_sub_epi32(_mm256_srli_epi32(most, 23), _mm256_set1_epi32(rounding.shift));
    e = _mm256_add_epi32(_mm256_sub_epi32(e, up), down);
    e = _mm256_min_epi32(_mm256_max_epi32(e, _mm256_setzero_si256()), _mm256_set1_epi32(format.most_exponent + 127));
    return _mm256_blendv_epi8(e, _mm256_set1_epi32(127), _mm256_cmpeq_epi32(most, _mm256_setzero_si256()));
  }

  static constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
};

// --- bfloat16 -------------------------------------------------------------------------------------------------------

inline __m256 load_bf16(const uint16_t* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

// Ties to even; NaN stays NaN. In the low halves of 32-bit lanes.
inline __m256i to_bf16(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values), high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
  const __m256 ordered = _mm256_cmp_ps(values, values, _CMP_ORD_Q);
  return _mm256_blendv_epi8(_mm256_or_si256(high, _mm256_set1_epi32(0x40)), rounded, _mm256_castps_si256(ordered));
}

inline void store_bf16(uint16_t* p, __m256 values) {
  const __m256i words = to_bf16(values);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

}  // namespace
}  // namespace nibble::avx2
