// With the instructions that every x86-64 processor has (SSE2): packing runs at the speed of memory with them, and
// this file needs no flags of its own.
#include "kernels/transpose.h"

#include <emmintrin.h>

#include <cstring>

namespace nibble {
namespace {

__m128i load(const std::byte* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }
void store(void* at, __m128i value) { _mm_store_si128(static_cast<__m128i*>(at), value); }

// Four lanes of four 32-bit units each; unit i of them goes to out + i * 64 bytes.
void transpose_4x4(__m128i a, __m128i b, __m128i c, __m128i d, uint8_t* out) {
  const __m128i ab_low = _mm_unpacklo_epi32(a, b), ab_high = _mm_unpackhi_epi32(a, b);
  const __m128i cd_low = _mm_unpacklo_epi32(c, d), cd_high = _mm_unpackhi_epi32(c, d);
  store(out, _mm_unpacklo_epi64(ab_low, cd_low));
  store(out + 64, _mm_unpackhi_epi64(ab_low, cd_low));
  store(out + 128, _mm_unpacklo_epi64(ab_high, cd_high));
  store(out + 192, _mm_unpackhi_epi64(ab_high, cd_high));
}

// Eight lanes of eight 16-bit values each; value i of them goes to out + i * 32 bytes.
void transpose_8x8(const __m128i (&row)[8], uint8_t* out) {
  __m128i pair[8], quad[8];
  for (int i = 0; i < 4; ++i) {
    pair[i] = _mm_unpacklo_epi16(row[2 * i], row[2 * i + 1]);
    pair[i + 4] = _mm_unpackhi_epi16(row[2 * i], row[2 * i + 1]);
  }
  for (int half = 0; half < 2; ++half)
    for (int i = 0; i < 2; ++i) {
      quad[half * 4 + i] = _mm_unpacklo_epi32(pair[half * 4 + 2 * i], pair[half * 4 + 2 * i + 1]);
      quad[half * 4 + i + 2] = _mm_unpackhi_epi32(pair[half * 4 + 2 * i], pair[half * 4 + 2 * i + 1]);
    }
  for (int two = 0; two < 4; ++two) {
    store(out + two * 64, _mm_unpacklo_epi64(quad[two * 2], quad[two * 2 + 1]));
    store(out + two * 64 + 32, _mm_unpackhi_epi64(quad[two * 2], quad[two * 2 + 1]));
  }
}

int32_t sum_of(__m128i two_sums) {
  return _mm_cvtsi128_si32(two_sums) + _mm_cvtsi128_si32(_mm_unpackhi_epi64(two_sums, two_sums));
}

// The codes of two rows, 32 each, in the order of their inputs; `low` and `high` receive 16 merged bytes each.
struct Merged {
  __m128i low, high;
};
Merged merge_nibbles(__m128i first, __m128i second, __m128i& first_sum, __m128i& second_sum) {
  const __m128i mask = _mm_set1_epi8(15), eight = _mm_set1_epi8(8), zero = _mm_setzero_si128();
  const __m128i a_even = _mm_and_si128(first, mask), a_odd = _mm_and_si128(_mm_srli_epi16(first, 4), mask);
  const __m128i b_even = _mm_and_si128(second, mask), b_odd = _mm_and_si128(_mm_srli_epi16(second, 4), mask);
  first_sum = _mm_add_epi32(first_sum, _mm_sad_epu8(_mm_add_epi8(a_even, a_odd), zero));
  second_sum = _mm_add_epi32(second_sum, _mm_sad_epu8(_mm_add_epi8(b_even, b_odd), zero));
  // code - 8 as four bits of two's complement is code ^ 8; no bit crosses from a byte to the next.
  const __m128i even = _mm_or_si128(a_even, _mm_slli_epi16(_mm_xor_si128(b_even, eight), 4));
  const __m128i odd = _mm_or_si128(a_odd, _mm_slli_epi16(_mm_xor_si128(b_odd, eight), 4));
  return {_mm_unpacklo_epi8(even, odd), _mm_unpackhi_epi8(even, odd)};
}

}  // namespace

void transpose_values(const PanelRows& rows, int64_t count, uint16_t* out) {
  const int64_t whole = count / 8 * 8;
  auto* const to = reinterpret_cast<uint8_t*>(out);
  for (int64_t i = 0; i < whole; i += 8)
    for (int lane = 0; lane < kLanes; lane += 8) {
      __m128i row[8];
      for (int j = 0; j < 8; ++j) row[j] = load(rows[static_cast<size_t>(lane + j)] + i * 2);
      transpose_8x8(row, to + i * 32 + lane * 2);
    }
  for (int64_t i = whole; i < count; ++i)
    for (int lane = 0; lane < kLanes; ++lane)
      std::memcpy(out + i * kLanes + lane, rows[static_cast<size_t>(lane)] + i * 2, 2);
}

void transpose_values(const PanelRows& rows, int64_t count, uint32_t* out) {
  const int64_t whole = count / 4 * 4;
  auto* const to = reinterpret_cast<uint8_t*>(out);
  for (int64_t i = 0; i < whole; i += 4)
    for (size_t lane = 0; lane < kLanes; lane += 4)
      transpose_4x4(load(rows[lane] + i * 4), load(rows[lane + 1] + i * 4), load(rows[lane + 2] + i * 4),
                    load(rows[lane + 3] + i * 4), to + i * 64 + lane * 4);
  for (int64_t i = whole; i < count; ++i)
    for (int lane = 0; lane < kLanes; ++lane)
      std::memcpy(out + i * kLanes + lane, rows[static_cast<size_t>(lane)] + i * 4, 4);
}

void pack_bytes(const PanelRows& rows, int64_t first, int64_t count, uint8_t* out, int32_t* sums) {
  const __m128i half = _mm_set1_epi8(-128), zero = _mm_setzero_si128();
  for (size_t lane = 0; lane < kLanes; lane += 4) {
    __m128i sum[4] = {zero, zero, zero, zero};
    for (int64_t i = 0; i < count; i += 16) {
      __m128i row[4];
      for (size_t j = 0; j < 4; ++j) {
        const __m128i codes = load(rows[lane + j] + first + i);
        sum[j] = _mm_add_epi32(sum[j], _mm_sad_epu8(codes, zero));
        row[j] = _mm_xor_si128(codes, half);
      }
      transpose_4x4(row[0], row[1], row[2], row[3], out + i * kLanes + lane * 4);
    }
    for (size_t j = 0; j < 4; ++j) sums[lane + j] = sum_of(sum[j]) - static_cast<int32_t>(128 * count);
  }
}

void pack_nibbles(const PanelRows& first_rows, const PanelRows& second_rows, int64_t first, int64_t count, uint8_t* out,
                  int32_t* const sums[2]) {
  const __m128i zero = _mm_setzero_si128();
  for (size_t lane = 0; lane < kLanes; lane += 4) {
    __m128i sum[2][4] = {{zero, zero, zero, zero}, {zero, zero, zero, zero}};
    for (int64_t i = 0; i < count; i += 32) {
      Merged row[4];
      for (size_t j = 0; j < 4; ++j)
        row[j] = merge_nibbles(load(first_rows[lane + j] + (first + i) / 2),
                               load(second_rows[lane + j] + (first + i) / 2), sum[0][j], sum[1][j]);
      uint8_t* const to = out + i * kLanes + lane * 4;
      transpose_4x4(row[0].low, row[1].low, row[2].low, row[3].low, to);
      transpose_4x4(row[0].high, row[1].high, row[2].high, row[3].high, to + 256);
    }
    for (size_t j = 0; j < 4; ++j)
      for (int panel = 0; panel < 2; ++panel)
        sums[panel][lane + j] = sum_of(sum[panel][j]) - static_cast<int32_t>(8 * count);
  }
}

}  // namespace nibble
