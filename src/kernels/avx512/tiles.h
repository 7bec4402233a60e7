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

// r = bias, then the kept columns: 24 accumulators, P weights, one broadcast.
template <int M, int P>
[[gnu::always_inline]] inline void begin_outputs(const LinearArgs& args, int64_t m, int64_t panel,
                                                 FloatTile<M, P>& out) {
  FloatTile<M, P> r;
  for (int p = 0; p < P; ++p) {
    const __m512 bias = args.bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(args.bias + (panel + p) * kLanes);
    for (int i = 0; i < M; ++i) r[i][p] = bias;
  }
  const int64_t columns = args.kept.columns;
  const uint16_t* kept = args.kept.values + panel * columns * kLanes;
  const float* x = args.x_kept + m * args.kept_stride;
  for (int64_t c = 0; c < columns; ++c) {
    __m512 w[P];
    for (int p = 0; p < P; ++p) w[p] = load_f16(kept + (p * columns + c) * kLanes);
    for (int i = 0; i < M; ++i) {
      const __m512 value = _mm512_set1_ps(x[i * args.kept_stride + c]);
      for (int p = 0; p < P; ++p) r[i][p] = _mm512_fmadd_ps(value, w[p], r[i][p]);
    }
  }
  store<M, P>(r, out);
}

// Outputs from N on do not exist in y, nor does a panel that is packed only to make a pair.
inline __mmask16 lanes_of(const LinearArgs& args, int64_t panel) {
  const int64_t left = smaller(args.dense.n, args.panel_end * kLanes) - panel * kLanes;
  if (left <= 0) return 0;
  return left >= kLanes ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << left) - 1);
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
