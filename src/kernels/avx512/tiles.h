// What the linear kernels of this folder share: a register tile of M tokens x P panels, one zmm of 16 outputs per token
// and panel, 24 accumulators at most.
//
// Everything here has internal linkage on purpose: no other translation unit may end up with code compiled for
// AVX-512.
#pragma once

#include "kernels/avx512/intrinsics.h"

#include "kernels/abi/linear.h"

namespace nibble::avx512 {
namespace {

// body(0), body(1) .. body(N - 1) with constants: an array that only such bodies index stays in registers.
template <int I>
struct Constant {
  constexpr operator int() const { return I; }
};

template <int N, int I = 0, class Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  if constexpr (I < N) {
    body(Constant<I>());
    unrolled<N, I + 1>(body);
  }
}

constexpr int64_t kTileM = 6, kTileP = 4;

template <int M, int P>
using FloatTile = __m512[M][P];

// A loop's accumulators must be a local array that only unrolled loops index, or the compiler keeps it in memory.
// These copy it from and to a tile in memory, once per tile or group.
template <int M, int P>
[[gnu::always_inline]] inline void load(const FloatTile<M, P>& from, FloatTile<M, P>& to) {
#pragma GCC unroll 12
  for (int i = 0; i < M; ++i)
    for (int p = 0; p < P; ++p) to[i][p] = _mm512_load_ps(&from[i][p]);
}

template <int M, int P>
[[gnu::always_inline]] inline void store(const FloatTile<M, P>& from, FloatTile<M, P>& to) {
#pragma GCC unroll 12
  for (int i = 0; i < M; ++i)
    for (int p = 0; p < P; ++p) _mm512_store_ps(&to[i][p], from[i][p]);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

inline __m512 load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// Sixteen entries of a group's scales, zeros and sums, as float32 and int32.
inline __m512 group_scales(const PackedDense& dense, int64_t at) {
  if (dense.compact) return load_f16(static_cast<const uint16_t*>(dense.scales) + at);
  return _mm512_loadu_ps(static_cast<const float*>(dense.scales) + at);
}

inline __m512i group_zeros(const PackedDense& dense, int64_t at) {  // not null
  if (!dense.compact) return _mm512_loadu_si512(static_cast<const int32_t*>(dense.zeros) + at);
  const auto* bytes = static_cast<const int8_t*>(dense.zeros) + at;
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

inline __m512i group_sums(const PackedDense& dense, int64_t at) {
  if (!dense.compact) return _mm512_loadu_si512(static_cast<const int32_t*>(dense.sums) + at);
  const auto* words = static_cast<const int16_t*>(dense.sums) + at;
  return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
}

// Weights of few tokens come from memory. Four streams and more side by side are asked for 1 KiB ahead, two 4 KiB. One
// or two of many tokens get half of what a core can read that way, since the prefetcher stops at the end of every page:
// their lines are asked for `distance` bytes ahead in an order that goes through sixteen pages side by side, bits 6..9
// of the address selecting the page and bits 10..15 the line in it. Inlined always: the compiler takes a function that
// only prefetches for one without effect.
constexpr int64_t kSixteenPages = 0x10000;
enum class Ahead : int64_t { pages = 0, one_kib = 1024, four_kib = 4096 };

template <Ahead kAhead>
[[gnu::always_inline]] inline void ask_ahead(const void* weights, int64_t distance) {
  if constexpr (kAhead != Ahead::pages)
    return _mm_prefetch(static_cast<const char*>(weights) + static_cast<int64_t>(kAhead), _MM_HINT_T1);
  const auto at = reinterpret_cast<uintptr_t>(weights) + static_cast<uintptr_t>(distance);
  const uintptr_t page = (at >> 6 & 15) << 12, line = (at >> 10 & 63) << 6;
  _mm_prefetch(reinterpret_cast<const char*>((at & ~uintptr_t{0xFFFF}) + page + line), _MM_HINT_T1);
}

// Outputs from N on do not exist in y, nor does a panel that is packed only to make a pair.
inline __mmask16 lanes_of(const LinearArgs& args, int64_t panel) {
  const int64_t left = smaller(args.dense.n, args.panel_end * kLanes) - panel * kLanes;
  if (left <= 0) return 0;
  return left >= kLanes ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << left) - 1);
}

// r: y as it is when it has begun, else the bias.
template <int M, int P>
[[gnu::always_inline]] inline void begin_outputs(const LinearArgs& args, int64_t m, int64_t panel, FloatTile<M, P>& r) {
  for (int p = 0; p < P; ++p) {
    const __mmask16 lanes = lanes_of(args, panel + p);
    const float* from = args.y + m * args.y_stride + (panel + p) * kLanes;
    const __m512 bias =
        args.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, args.bias + (panel + p) * kLanes);
    for (int i = 0; i < M; ++i) r[i][p] = args.begun ? _mm512_maskz_loadu_ps(lanes, from + i * args.y_stride) : bias;
  }
}

template <int M, int P>
[[gnu::always_inline]] inline void store_outputs(const LinearArgs& args, int64_t m, int64_t panel,
                                                 const FloatTile<M, P>& y) {
  for (int p = 0; p < P; ++p) {
    const __mmask16 lanes = lanes_of(args, panel + p);
    float* to = args.y + m * args.y_stride + (panel + p) * kLanes;
    for (int i = 0; i < M; ++i) _mm512_mask_storeu_ps(to + i * args.y_stride, lanes, y[i][p]);
  }
}

// Walks the outputs of float input: one strip of P panels after another (its weights stay in the L2 cache), inside it
// tiles of six tokens. Kernel::tile<M, P>(args, m, panel) computes one tile.
template <class Kernel, int P>
void run_strip(const LinearArgs& args, int64_t panel) {
  int64_t m = args.m_begin;
  for (; m + kTileM <= args.m_end; m += kTileM) Kernel::template tile<kTileM, P>(args, m, panel);
  switch (args.m_end - m) {
    case 5: return Kernel::template tile<5, P>(args, m, panel);
    case 4: return Kernel::template tile<4, P>(args, m, panel);
    case 3: return Kernel::template tile<3, P>(args, m, panel);
    case 2: return Kernel::template tile<2, P>(args, m, panel);
    case 1: return Kernel::template tile<1, P>(args, m, panel);
    default: return;
  }
}

// kLast: panels to a tile where fewer than four are left; 2 for layouts in pairs, whose last panel may be missing.
template <class Kernel, int kLast = 1>
void run_tiles(const LinearArgs& args) {
  int64_t panel = args.panel_begin;
  for (; panel + kTileP <= args.panel_end; panel += kTileP) run_strip<Kernel, kTileP>(args, panel);
  for (; panel < args.panel_end; panel += kLast) run_strip<Kernel, kLast>(args, panel);
}

}  // namespace
}  // namespace nibble::avx512
