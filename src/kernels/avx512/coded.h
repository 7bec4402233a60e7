// Coded layouts (kernels/abi/linear.h): where units lie, and their codes as words.
#pragma once

#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

inline int64_t unit_offset(const CodedSegment& segment, int64_t k) {
  return segment.offset + (k - segment.begin) / kUnitInputs * 64 * segment.bits;
}

// body(segment, begin, end) for the part of every segment that lies in inputs [begin, end).
template <class Body>
[[gnu::always_inline]] inline void each_segment(const PackedDense& dense, int64_t begin, int64_t end,
                                                const Body& body) {
  for (int64_t s = 0; s < dense.segment_count && begin < end; ++s) {
    const int64_t until = s + 1 < dense.segment_count ? smaller(end, dense.segments[s + 1].begin) : end;
    if (begin >= until) continue;
    body(dense.segments[s], begin, until);
    begin = until;
  }
}

inline __m512i vector_of(const uint8_t* unit, int i) { return _mm512_loadu_si512(unit + 64 * i); }

// The words' code of lookup 15 with 3 bits, a bit from every vector.
[[gnu::always_inline]] inline __m512i last_code_words(const uint8_t* unit) {
  const __m512i bit0 = _mm512_srli_epi16(vector_of(unit, 0), 15);
  const __m512i bit1 = _mm512_srli_epi16(vector_of(unit, 1), 14), bit2 = _mm512_srli_epi16(vector_of(unit, 2), 13);
  // b ? c : a, bit by bit
  const __m512i two = _mm512_ternarylogic_epi32(bit0, _mm512_set1_epi16(2), bit1, 0xB8);
  return _mm512_ternarylogic_epi32(two, _mm512_set1_epi16(4), bit2, 0xB8);
}

// The words of lookup T, the code in the lowest bits; what lies above is not cleared.
template <int kBits, int T>
[[gnu::always_inline]] inline __m512i single_code_words(const uint8_t* unit) {
  if constexpr (kBits == 3 && T == 15) {
    return last_code_words(unit);
  } else if constexpr (kBits == 5 || kBits == 6) {
    constexpr int kAbove = kBits - 4, kInWord = 16 / kAbove, kShift = T % kInWord * kAbove - 4;
    __m512i upper = vector_of(unit, 4 + T / kInWord);
    if constexpr (kShift > 0) upper = _mm512_srli_epi16(upper, kShift);
    if constexpr (kShift < 0) upper = _mm512_slli_epi16(upper, -kShift);
    const __m512i lower = single_code_words<4, T>(unit);
    return _mm512_ternarylogic_epi32(_mm512_set1_epi16(15), lower, upper, 0xCA);
  } else {
    constexpr int kInWord = 16 / kBits;
    const __m512i words = vector_of(unit, T / kInWord);
    return T % kInWord == 0 ? words : _mm512_srli_epi16(words, T % kInWord * kBits);
  }
}

// The scales of the block that input k lies in, for tables of the matrix.
inline __m512 block_scales(const PackedDense& dense, int64_t panel, int64_t k) {
  const int64_t block = smaller(k / dense.group_size, dense.groups - 1);
  const uint8_t* bytes = static_cast<const uint8_t*>(dense.scales) + (panel * dense.groups + block) * kLanes;
  const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  if (dense.e4m3)
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(sixteen), 7)),
                         _mm512_set1_ps(dense.factor));
  const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(sixteen), 23);
  return _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(1 << 22)));  // 2^-127 is subnormal
}

inline __m512 first_of_pairs(__m512i words) { return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)); }
inline __m512 second_of_pairs(__m512i words) {
  return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(-65536)));
}

// The matrix's levels, found by codes of up to 8 bits: vpermw reads five bits of an index, vpermi2w six.
template <int kBits>
struct TableLevels {
  static constexpr int kWidth = kBits, kRegisters = kBits == 8 ? 4 : kBits == 6 ? 2 : 1;
  __m512i of[kRegisters];

  [[gnu::always_inline]] explicit TableLevels(const PackedDense& dense) {
    if constexpr (kBits <= 4) {
      of[0] = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(dense.tables)));
    } else {
      unrolled<kRegisters>([&](auto i)
                               __attribute__((always_inline)) { of[i] = _mm512_loadu_si512(dense.tables + 32 * i); });
    }
  }

  // Of lookup T, in words.
  template <int T>
  [[gnu::always_inline]] __m512i words(const uint8_t* unit) const {
    const __m512i code = single_code_words<kBits, T>(unit);
    if constexpr (kBits <= 5) {
      return _mm512_permutexvar_epi16(code, of[0]);
    } else if constexpr (kBits == 6) {
      return _mm512_permutex2var_epi16(of[0], code, of[1]);
    } else {  // half of the table has the other sign
      const __m512i both = vector_of(unit, T / 2), sign = T % 2 == 0 ? _mm512_slli_epi16(both, 8) : both;
      const __mmask32 upper = _mm512_test_epi16_mask(both, _mm512_set1_epi16(T % 2 == 0 ? 0x0040 : 0x4000));
      const __m512i magnitude = _mm512_mask_blend_epi16(upper, _mm512_permutex2var_epi16(of[0], code, of[1]),
                                                        _mm512_permutex2var_epi16(of[2], code, of[3]));
      // sign & 0x8000 | magnitude
      return _mm512_ternarylogic_epi32(sign, _mm512_set1_epi16(-32768), magnitude, 0xEA);
    }
  }

  // The same as float32, of both inputs of pairs.
  template <int T>
  [[gnu::always_inline]] void levels(const uint8_t* unit, __m512 (&to)[2]) const {
    const __m512i both = words<T>(unit);
    to[0] = first_of_pairs(both);
    to[1] = second_of_pairs(both);
  }
};

// Levels that are codes of 8 bits.
struct IntegerLevels {
  static constexpr int kWidth = 8;

  template <int kByte>
  [[gnu::always_inline]] static __m512 level(__m512i dwords) {
    const __m512i high = kByte == 3 ? dwords : _mm512_slli_epi32(dwords, 24 - 8 * kByte);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(high, 24));
  }

  template <int T>
  [[gnu::always_inline]] void levels(const uint8_t* unit, __m512 (&to)[2]) const {
    const __m512i dwords = vector_of(unit, T / 2);
    to[0] = level<T % 2>(dwords);
    to[1] = level<2 + T % 2>(dwords);
  }
};

inline float widened(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// What the matrix's integer levels of a block are multiplied with.
inline __m512 integer_scales(const PackedDense& dense, int64_t panel, int64_t k) {
  const __m512 unit = _mm512_set1_ps(widened(dense.tables[0]));
  return dense.scales == nullptr ? unit : _mm512_mul_ps(unit, block_scales(dense, panel, k));
}

}  // namespace
}  // namespace nibble::avx512
