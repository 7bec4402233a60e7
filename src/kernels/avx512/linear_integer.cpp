// Integer weights times quantized activations: linear_w4_a8 and linear_w8_a8.
//
// vpdpbusd multiplies four unsigned bytes (activation codes, broadcast) with four signed bytes (weights) of every
// lane and adds them to the lane's int32. A byte of 4-bit weights is 16 * second + (first + 8), of two panels. It is
// multiplied as it is, and once more masked to its low nibble: the second product is the first panel's sum, and the
// difference of the two is sixteen times the second panel's, exactly (packing refuses groups where 16 * sum would not
// fit an int32). So unpacking costs one operation for 2 M products, which matters where logic and multiplier share
// ports.
//
// A tile is M tokens x 2 P panels. Registers of 12 x 32 (P = 1): 24 sums + 2 weights + 1 broadcast + 1 mask = 28 of 32.
// Fewer tokens take more panels, so that enough independent sums hide the multiplier's latency: 6 x 64 and 3 x 128.
// Groups: at the end of each, its sums are corrected, converted and added to f, which lives on the stack (L1).
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

template <int M, int P>
using IntegerTile = __m512i[M][P];

// The operands of one group of a tile.
struct Group {
  const uint8_t* weights;  // of the first panel or pair
  int64_t stride;          // of the weights, from panel to panel (8 bits) or from pair to pair (4 bits)
  const uint8_t* codes;    // of the first token
  int64_t code_stride;     // from token to token
  int64_t steps;
};

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

// Weights of few tokens come from memory. Several streams side by side are asked for 4 KiB ahead. One stream alone gets
// half of what a core can read, since its prefetcher stops at the end of every page: its lines are asked for 64 KiB
// ahead in an order that goes through sixteen pages side by side, bits 6..9 of the address selecting the page and
// bits 10..15 the line in it. Inlined always: the compiler takes a function that only prefetches for one without
// effect.
template <int P>
[[gnu::always_inline]] inline void prefetch(const uint8_t* weights) {
  if constexpr (P > 1) return _mm_prefetch(reinterpret_cast<const char*>(weights + 4096), _MM_HINT_T0);
  const auto at = reinterpret_cast<uintptr_t>(weights);
  const uintptr_t page = (at >> 6 & 15) << 12, line = (at >> 10 & 63) << 6;
  const uintptr_t ahead = (at & ~uintptr_t{0xFFFF}) + 0x10000 + page + line;
  _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
}

template <int M, int P>
[[gnu::always_inline]] inline void clear(IntegerTile<M, P>& acc) {
  unrolled<M * P>([&](auto at) __attribute__((always_inline)) { acc[at / P][at % P] = _mm512_setzero_si512(); });
}

struct W4 {
  // stored - level, of the first and the second panel of a pair.
  static constexpr int32_t kExcess[2] = {8, 0};
  static constexpr int64_t kPanelsInStep = 2;

  template <int M, int P>
  [[gnu::always_inline]] static void dot(const Group& group, IntegerTile<M, 2 * P>& acc) {
    clear<M, 2 * P>(acc);
    const __m512i low_bits = _mm512_set1_epi8(15);
    const uint8_t* weights = group.weights;
    const uint8_t* codes = group.codes;
    for (int64_t step = 0; step < group.steps; ++step, weights += 64, codes += 4) {
      __m512i both[P], low[P];
      for (int p = 0; p < P; ++p) {
        prefetch<P>(weights + p * group.stride);
        both[p] = load_weights(weights + p * group.stride);
        low[p] = _mm512_and_si512(both[p], low_bits);
      }
      unrolled<M>([&](auto i) __attribute__((always_inline)) {
        const __m512i x = broadcast4(codes + i * group.code_stride);
        unrolled<P>([&](auto p) __attribute__((always_inline)) {
          dot4(acc[i][2 * p], x, low[p]);
          dot4(acc[i][2 * p + 1], x, both[p]);
        });
      });
    }
    unrolled<M * P>([&](auto at) __attribute__((always_inline)) {
      __m512i* pair = &acc[at / P][at % P * 2];
      pair[1] = _mm512_srai_epi32(_mm512_sub_epi32(pair[1], pair[0]), 4);
    });
  }
};

struct W8 {
  static constexpr int32_t kExcess[2] = {0, 0};
  static constexpr int64_t kPanelsInStep = 1;

  template <int M, int P>
  [[gnu::always_inline]] static void dot(const Group& group, IntegerTile<M, 2 * P>& acc) {
    clear<M, 2 * P>(acc);
    const uint8_t* weights = group.weights;
    const uint8_t* codes = group.codes;
    for (int64_t step = 0; step < group.steps; ++step, weights += 64, codes += 4) {
      __m512i w[2 * P];
      for (int p = 0; p < 2 * P; ++p) {
        prefetch<P>(weights + p * group.stride);
        w[p] = load_weights(weights + p * group.stride);
      }
      unrolled<M>([&](auto i) __attribute__((always_inline)) {
        const __m512i x = broadcast4(codes + i * group.code_stride);
        unrolled<2 * P>([&](auto p) __attribute__((always_inline)) { dot4(acc[i][p], x, w[p]); });
      });
    }
  }
};

// What corrects the raw sums of a group, of code * (level + excess), to those of (code - zero[m]) * (level - zero):
//   - (excess + zero) * sum(codes) - zero[m] * sum(levels)
// modulo 2^32. Groups of up to 128 inputs have factors of 16 bits: then one vpdpwssd makes both products, with
// (sum(levels), excess + zero) in the lanes and (-zero[m], -sum(codes)) for the token.
constexpr int64_t kShortGroup = 128;

inline __m512i zeros_of(const PackedDense& dense, int64_t at, int32_t excess) {
  const __m512i constant = _mm512_set1_epi32(excess);
  return dense.zeros == nullptr ? constant : _mm512_add_epi32(constant, group_zeros(dense, at));
}

inline int32_t pair16(int32_t low, int32_t high) {
  return static_cast<int32_t>((static_cast<uint32_t>(low) & 0xFFFF) | static_cast<uint32_t>(high) << 16);
}

// f += scale * corrected sums, for one panel of one group.
template <int M, int P>
[[gnu::always_inline]] inline void fold_short(const LinearArgs& args, int64_t at, int p, int32_t excess,
                                              const int32_t (&factors)[M], const IntegerTile<M, P>& acc,
                                              FloatTile<M, P>& f) {
  const __m512 scale = group_scales(args.dense, at);
  const __m512i zeros = _mm512_slli_epi32(zeros_of(args.dense, at, excess), 16);
  const __m512i levels = _mm512_mask_blend_epi16(0xAAAAAAAA, group_sums(args.dense, at), zeros);
  unrolled<M>([&](auto i) __attribute__((always_inline)) {
    const __m512i exact = _mm512_dpwssd_epi32(acc[i][p], levels, _mm512_set1_epi32(factors[i]));
    f[i][p] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(exact), f[i][p]);
  });
}

template <int M, int P>
[[gnu::always_inline]] inline void fold_long(const LinearArgs& args, int64_t m, int64_t at, int64_t g, int p,
                                             int32_t excess, const IntegerTile<M, P>& acc, FloatTile<M, P>& f) {
  const __m512 scale = group_scales(args.dense, at);
  const __m512i sums = group_sums(args.dense, at), zeros = zeros_of(args.dense, at, excess);
  unrolled<M>([&](auto i) __attribute__((always_inline)) {
    const __m512i by_sum =
        _mm512_mullo_epi32(zeros, _mm512_set1_epi32(args.rows.sums[g * args.rows.sum_stride + m + i]));
    const __m512i by_zero = _mm512_mullo_epi32(sums, _mm512_set1_epi32(args.rows.zeros[m + i]));
    const __m512i exact = _mm512_sub_epi32(_mm512_sub_epi32(acc[i][p], by_sum), by_zero);
    f[i][p] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(exact), f[i][p]);
  });
}

// All panels of one group; `excess` of even and odd panels.
template <int M, int P>
[[gnu::always_inline]] inline void fold(const LinearArgs& args, int64_t m, int64_t panel, int64_t g,
                                        const int32_t (&excess)[2], const IntegerTile<M, P>& acc, FloatTile<M, P>& f) {
  const auto entry = [&](int p) { return ((panel + p) * args.dense.groups + g) * kLanes; };
  if (args.dense.group_size > kShortGroup) {
    unrolled<P>([&](auto p) __attribute__((always_inline)) {
      fold_long<M, P>(args, m, entry(p), g, p, excess[p % 2], acc, f);
    });
    return;
  }
  int32_t factors[M];
  for (int i = 0; i < M; ++i)
    factors[i] = pair16(-args.rows.zeros[m + i], -args.rows.sums[g * args.rows.sum_stride + m + i]);
  unrolled<P>([&](auto p) __attribute__((always_inline)) {
    fold_short<M, P>(args, entry(p), p, excess[p % 2], factors, acc, f);
  });
}

template <class Weights>
struct Integer {
  // M tokens x 2 P panels from an even one on.
  template <int M, int P>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t m, int64_t panel) {
    const PackedDense& dense = args.dense;
    const int64_t group_bytes = dense.group_steps * 64, stride = dense.groups * group_bytes;
    Group group{static_cast<const uint8_t*>(dense.codes) + panel / Weights::kPanelsInStep * stride, stride,
                args.rows.codes + m * args.rows.stride, args.rows.stride, dense.group_steps};
    ask_for_outputs<M, 2 * P>(args, m, panel);
    FloatTile<M, 2 * P> f{};
    for (int64_t g = 0; g < dense.groups; ++g) {
      IntegerTile<M, 2 * P> acc;
      Weights::template dot<M, P>(group, acc);
      fold<M, 2 * P>(args, m, panel, g, Weights::kExcess, acc, f);
      group.weights += group_bytes;
      group.codes += dense.group_steps * 4;
    }
    finish<M, 2 * P>(args, m, panel, f);
  }

  // Output lines lie a row apart, where no prefetcher looks; asked for before the multiplications they wait for.
  template <int M, int P>
  [[gnu::always_inline]] static void ask_for_outputs(const LinearArgs& args, int64_t m, int64_t panel) {
    for (int i = 0; i < M; ++i)
      for (int p = 0; p < P; ++p) __builtin_prefetch(args.y + (m + i) * args.y_stride + (panel + p) * kLanes, 1);
  }

  // y = scale[m] * f + (bias + kept columns)
  template <int M, int P>
  [[gnu::always_inline]] static void finish(const LinearArgs& args, int64_t m, int64_t panel,
                                            const FloatTile<M, P>& f) {
    FloatTile<M, P> r;
    begin_outputs<M, P>(args, m, panel, r);
    for (int i = 0; i < M; ++i) {
      const __m512 scale = _mm512_set1_ps(args.rows.scales[m + i]);
      for (int p = 0; p < P; ++p) r[i][p] = _mm512_fmadd_ps(scale, f[i][p], r[i][p]);
    }
    store_outputs<M, P>(args, m, panel, r);
  }

  using Tile = void (*)(const LinearArgs&, int64_t m, int64_t panel);
  static constexpr int64_t kTileTokens = 12;

  // All tokens, P pairs of panels at a time as long as there are that many; the next panel.
  template <int P>
  static int64_t run_strips(const LinearArgs& args, const Tile* tile_of, int64_t panel) {
    const int64_t m = args.m_end - args.m_begin, tiles = (m + kTileTokens - 1) / kTileTokens;
    for (; panel + 2 * P <= args.panel_end + P % 2; panel += 2 * P)
      for (int64_t i = 0; i < tiles; ++i) {
        // Tiles as equal as can be: seven and six tokens rather than twelve and one.
        const int64_t begin = m * i / tiles, end = m * (i + 1) / tiles;
        tile_of[end - begin](args, args.m_begin + begin, panel);
      }
    return panel;
  }

  static void run(const LinearArgs& args) {
    static constexpr Tile kOnePair[] = {nullptr,     tile<1, 1>,  tile<2, 1>, tile<3, 1>, tile<4, 1>,
                                        tile<5, 1>,  tile<6, 1>,  tile<7, 1>, tile<8, 1>, tile<9, 1>,
                                        tile<10, 1>, tile<11, 1>, tile<12, 1>};
    static constexpr Tile kTwoPairs[] = {nullptr,    tile<1, 2>, tile<2, 2>, tile<3, 2>,
                                         tile<4, 2>, tile<5, 2>, tile<6, 2>};
    static constexpr Tile kFourPairs[] = {nullptr, tile<1, 4>, tile<2, 4>, tile<3, 4>};
    const int64_t m = args.m_end - args.m_begin;
    int64_t panel = args.panel_begin;
    if (m <= 3) panel = run_strips<4>(args, kFourPairs, panel);
    if (m <= 6) panel = run_strips<2>(args, kTwoPairs, panel);
    run_strips<1>(args, kOnePair, panel);
  }
};

}  // namespace

void linear_w4_a8(const LinearArgs& args) { Integer<W4>::run(args); }
void linear_w8_a8(const LinearArgs& args) { Integer<W8>::run(args); }

}  // namespace nibble::avx512
