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

// The matrix's table, twice.
inline __m512i matrix_table(const PackedDense& dense) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(dense.tables)));
}

}  // namespace
}  // namespace nibble::avx512
