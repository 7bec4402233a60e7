// What all linear kernels of this folder share: a register tile of M tokens x one panel of 16 outputs, two ymm of
// eight outputs ("halves") per token.
//
// Everything here has internal linkage on purpose: no other translation unit may end up with code compiled for AVX2.
#pragma once

#include <immintrin.h>

#include "kernels/abi/linear.h"

namespace nibble::avx2 {
namespace {

constexpr int kHalves = 2;

template <int M>
using FloatTile = __m256[M][kHalves];

// A loop's accumulators must be a local array that only unrolled loops index, or the compiler keeps it in memory.
// These copy it from and to a tile in memory, once per tile or group.
template <int M>
[[gnu::always_inline]] inline void load(const FloatTile<M>& from, FloatTile<M>& to) {
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
    for (int h = 0; h < kHalves; ++h) to[i][h] = _mm256_load_ps(reinterpret_cast<const float*>(&from[i][h]));
}

template <int M>
[[gnu::always_inline]] inline void store(const FloatTile<M>& from, FloatTile<M>& to) {
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
    for (int h = 0; h < kHalves; ++h) _mm256_store_ps(reinterpret_cast<float*>(&to[i][h]), from[i][h]);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

inline __m256i load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

inline __m256 load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Eight entries of a group's scales, zeros and sums, as float32 and int32.
inline __m256 group_scales(const PackedDense& dense, int64_t at) {
  if (dense.compact) return load_f16(static_cast<const uint16_t*>(dense.scales) + at);
  return _mm256_loadu_ps(static_cast<const float*>(dense.scales) + at);
}

inline __m256i group_zeros(const PackedDense& dense, int64_t at) {  // not null
  if (!dense.compact) return load_bytes(static_cast<const int32_t*>(dense.zeros) + at);
  const auto* bytes = static_cast<const int8_t*>(dense.zeros) + at;
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
}

inline __m256i group_sums(const PackedDense& dense, int64_t at) {
  if (!dense.compact) return load_bytes(static_cast<const int32_t*>(dense.sums) + at);
  const auto* words = static_cast<const int16_t*>(dense.sums) + at;
  return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words)));
}

// All ones in the first `count` of eight lanes.
inline __m256i first_lanes(int64_t count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const auto limit = static_cast<int32_t>(count > 8 ? 8 : count);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), lane);
}

// r: y as it is when it has begun, else the bias. Outputs from N on do not exist in y.
template <int M>
[[gnu::always_inline]] inline void begin_outputs(const LinearArgs& args, int64_t m, int64_t panel, FloatTile<M>& r) {
  for (int h = 0; h < kHalves; ++h) {
    const int64_t n = panel * kLanes + 8 * h;
    const __m256i lanes = first_lanes(args.dense.n - n);
    const __m256 bias = args.bias == nullptr ? _mm256_setzero_ps() : _mm256_loadu_ps(args.bias + n);
    for (int i = 0; i < M; ++i)
      r[i][h] = args.begun ? _mm256_maskload_ps(args.y + (m + i) * args.y_stride + n, lanes) : bias;
  }
}

template <int M>
[[gnu::always_inline]] inline void store_outputs(const LinearArgs& args, int64_t m, int64_t panel,
                                                 const FloatTile<M>& y) {
  for (int h = 0; h < kHalves; ++h) {
    const int64_t n = panel * kLanes + 8 * h;
    const __m256i lanes = first_lanes(args.dense.n - n);
    for (int i = 0; i < M; ++i) _mm256_maskstore_ps(args.y + (m + i) * args.y_stride + n, lanes, y[i][h]);
  }
}

// One panel: its weights stay in the L2 cache over tiles of `kTile` tokens, then single tokens. Kernel::tile<M>(args,
// m, panel) computes one tile.
template <class Kernel, int kTile>
void run_panel(const LinearArgs& args, int64_t panel) {
  int64_t m = args.m_begin;
  for (; m + kTile <= args.m_end; m += kTile) Kernel::template tile<kTile>(args, m, panel);
  for (; m + 2 <= args.m_end; m += 2) Kernel::template tile<2>(args, m, panel);
  for (; m < args.m_end; ++m) Kernel::template tile<1>(args, m, panel);
}

template <class Kernel, int kTile>
void run_tiles(const LinearArgs& args) {
  for (int64_t panel = args.panel_begin; panel < args.panel_end; ++panel) run_panel<Kernel, kTile>(args, panel);
}

// For layouts in pairs of panels, whose first and second are read differently.
template <class First, class Second, int kTile>
void run_tiles_in_pairs(const LinearArgs& args) {
  for (int64_t panel = args.panel_begin; panel < args.panel_end; panel += 2) {
    run_panel<First, kTile>(args, panel);
    if (panel + 1 < args.panel_end) run_panel<Second, kTile>(args, panel + 1);
  }
}

}  // namespace
}  // namespace nibble::avx2
