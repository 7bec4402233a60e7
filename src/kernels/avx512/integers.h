// What the kernels of integer weights times quantized activations share: the product, and what corrects its sums.
//
// vpdpbusd multiplies four unsigned bytes (activation codes, broadcast) with four signed bytes (weights) of every lane
// and adds them to the lane's int32.
//
// Everything here has internal linkage on purpose (tiles.h).
#pragma once

#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

constexpr int64_t kTileTokens = 12;

template <int M, int P>
using IntegerTile = __m512i[M][P];

inline __m512i load_weights(const uint8_t* p) { return _mm512_loadu_si512(p); }

inline __m512i broadcast4(const uint8_t* codes) {
  int32_t word;
  __builtin_memcpy(&word, codes, sizeof word);
  return _mm512_set1_epi32(word);
}

// acc += sum of four products x * w in every lane. In assembly because g++ 12, given the intrinsic, keeps two copies of
// every accumulator of a large tile and spills one.
[[gnu::always_inline]] inline void dot4(__m512i& acc, __m512i x, __m512i w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
}

template <int M, int P>
[[gnu::always_inline]] inline void clear(IntegerTile<M, P>& acc) {
  unrolled<M * P>([&](auto at) __attribute__((always_inline)) { acc[at / P][at % P] = _mm512_setzero_si512(); });
}

// What corrects the raw sums of a group, of code * (level + excess), to those of (code - zero[m]) * (level - zero):
//   - (excess + zero) * sum(codes) - zero[m] * sum(levels)
// modulo 2^32. Groups of up to 128 inputs have factors of 16 bits: then one vpdpwssd makes both products, with
// (sum(levels), excess + zero) in the lanes and (-zero[m], -sum(codes)) for the token.
constexpr int64_t kShortGroup = 128;

inline __m512i zeros_of(const PackedDense& dense, int64_t at, int32_t excess) {
  const __m512i constant = _mm512_set1_epi32(excess);
  return dense.zeros == nullptr ? constant : _mm512_add_epi32(constant, group_zeros(dense, at));
}

// The low halves of `low` and `high` in one word.
inline __m512i pair16(__m512i low, __m512i high) {
  return _mm512_mask_blend_epi16(0xAAAAAAAA, low, _mm512_slli_epi32(high, 16));
}

// A factor for each of up to 16 tokens, to be loaded into all lanes. The empty assembly keeps the compiler from taking
// them out of the register they come from, with a shuffle for each, where shuffles and multiplications share a port.
struct Factors {
  alignas(64) int32_t of[16];

  [[gnu::always_inline]] void set(__m512i factors) {
    _mm512_store_si512(of, factors);
    asm("" : "+m"(of));
  }
  [[gnu::always_inline]] __m512i operator[](int64_t i) const { return _mm512_set1_epi32(of[i]); }
};

}  // namespace
}  // namespace nibble::avx512
