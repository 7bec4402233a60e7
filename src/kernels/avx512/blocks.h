// Float input in blocks of K: tiles of 12 tokens x 2 panels whose operands fit the L1 cache.
//
// The weights of a strip of two panels are turned into float32 once per block (or are float32 already) and multiplied
// with all tiles of tokens. Between blocks the accumulators rest in memory, which changes no bit.
// Registers of 12 x 32: 24 accumulators + 2 weights + 1 broadcast = 27 of 32. L1: 2 panels x 192 inputs x 64 bytes = 24
// KiB, 12 tokens x 192 inputs = 9 KiB.
#pragma once

#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

constexpr int64_t kBlockTokens = 12, kBlockPanels = 2, kBlockInputs = 192;
constexpr int64_t kTileValues = kBlockTokens * kBlockPanels * kLanes;

// The operands of one tile and one block.
struct Block {
  const float* weights;  // [panel][inputs][16]
  int64_t panel_stride;  // values from panel to panel
  const float* x;        // of the first token
  int64_t x_stride;      // values from token to token
  int64_t inputs;
};

// acc += x * w in every lane. In assembly because g++ 12, given the intrinsic, keeps two copies of every accumulator of
// a large tile and spills one.
[[gnu::always_inline]] inline void multiply_add(__m512& acc, __m512 x, __m512 w) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
}

// tile += x * w over the block, inputs ascending.
template <int M, int P>
[[gnu::always_inline]] inline void multiply_block(const Block& block, FloatTile<M, P>& tile) {
  FloatTile<M, P> acc;
  unrolled<M * P>([&](auto at)
                      __attribute__((always_inline)) { acc[at / P][at % P] = _mm512_load_ps(&tile[at / P][at % P]); });
  const float* weights = block.weights;
  // Three tokens are addressed from one pointer: more pointers than that do not fit the registers.
  const int64_t stride = block.x_stride;
  const float* x[4] = {block.x, block.x + 3 * stride, block.x + 6 * stride, block.x + 9 * stride};
  for (int64_t k = 0; k < block.inputs; ++k, weights += kLanes) {
    __m512 w[P];
    for (int p = 0; p < P; ++p) w[p] = _mm512_loadu_ps(weights + p * block.panel_stride);
    unrolled<M>([&](auto i) __attribute__((always_inline)) {
      const __m512 value = _mm512_set1_ps(x[i / 3][i % 3 * stride]);
      unrolled<P>([&](auto p) __attribute__((always_inline)) { multiply_add(acc[i][p], value, w[p]); });
    });
    unrolled<(M + 2) / 3>([&](auto i) __attribute__((always_inline)) { ++x[i]; });
  }
  unrolled<M * P>([&](auto at)
                      __attribute__((always_inline)) { _mm512_store_ps(&tile[at / P][at % P], acc[at / P][at % P]); });
}

// Cuts tokens [begin, end) into tiles as equal as can be, so that seven and six are not twelve and one. body(m, count).
template <class Body>
[[gnu::always_inline]] inline void each_tile(int64_t begin, int64_t end, const Body& body) {
  const int64_t count = end - begin, tiles = (count + kBlockTokens - 1) / kBlockTokens;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t from = count * i / tiles, to = count * (i + 1) / tiles;
    body(begin + from, to - from);
  }
}

}  // namespace
}  // namespace nibble::avx512
