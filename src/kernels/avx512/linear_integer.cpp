// Integer weights times quantized activations: linear_w4_a8 and linear_w8_a8, for few tokens; many have a file of their
// own (linear_integer_many.cpp).
//
// A byte of 4-bit weights is 16 * second + (first + 8), of two panels. It is multiplied as it is, and once more masked
// to its low nibble: the second product is the first panel's sum, and the difference of the two is sixteen times the
// second panel's, exactly (packing refuses groups where 16 * sum would not fit an int32). So unpacking costs one
// operation for 2 M products, which matters where logic and multiplier share ports.
//
// A tile is M tokens x 2 P panels. Registers of 12 x 32 (P = 1): 24 sums + 2 weights + 1 broadcast + 1 mask = 28 of 32.
// Fewer tokens take more panels, so that enough independent sums hide the multiplier's latency: 6 x 64 and 3 x 128.
// Groups: at the end of each, its sums are corrected, converted and added to f, which lives on the stack (L1).
#include "kernels/avx512/integers.h"
#include "kernels/avx512/rows.h"

namespace nibble::avx512 {
namespace {

// The operands of one group of a tile.
struct Group {
  const uint8_t* weights;  // of the first panel or pair
  int64_t stride;          // of the weights, from panel to panel (8 bits) or from pair to pair (4 bits)
  const uint8_t* codes;    // of the first token
  int64_t code_stride;     // from token to token
  int64_t steps;
};

struct W4 {
  // stored - level, of the first and the second panel of a pair.
  static constexpr int32_t kExcess[2] = {8, 0};
  static constexpr int64_t kPanelsInStep = 2;

  template <int M, int P>
  [[gnu::always_inline]] static void dot(const Group& group, IntegerTile<M, 2 * P>& acc) {
    clear<M, 2 * P>(acc);
    constexpr Ahead kAhead = P > 2 ? Ahead::one_kib : P > 1 ? Ahead::four_kib : Ahead::pages;
    const __m512i low_bits = _mm512_set1_epi8(15);
    const uint8_t* weights = group.weights;
    const uint8_t* codes = group.codes;
    for (int64_t step = 0; step < group.steps; ++step, weights += 64, codes += 4) {
      __m512i both[P], low[P];
      for (int p = 0; p < P; ++p) {
        ask_ahead<kAhead>(weights + p * group.stride, kSixteenPages);
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
    // Not where the other panel is read.
    const int64_t distance = group.stride <= kSixteenPages ? 2 * group.stride : kSixteenPages;
    for (int64_t step = 0; step < group.steps; ++step, weights += 64, codes += 4) {
      __m512i w[2 * P];
      for (int p = 0; p < 2 * P; ++p) {
        ask_ahead<(P > 1 ? Ahead::one_kib : Ahead::pages)>(weights + p * group.stride, distance);
        w[p] = load_weights(weights + p * group.stride);
      }
      unrolled<M>([&](auto i) __attribute__((always_inline)) {
        const __m512i x = broadcast4(codes + i * group.code_stride);
        unrolled<2 * P>([&](auto p) __attribute__((always_inline)) { dot4(acc[i][p], x, w[p]); });
      });
    }
  }
};

// f += scale * corrected sums, for one panel of one group.
template <int M, int P>
[[gnu::always_inline]] inline void fold_short(const LinearArgs& args, int64_t at, int p, int32_t excess,
                                              const Factors& factors, const IntegerTile<M, P>& acc,
                                              FloatTile<M, P>& f) {
  const __m512 scale = group_scales(args.dense, at);
  const __m512i zeros = _mm512_slli_epi32(zeros_of(args.dense, at, excess), 16);
  const __m512i levels = _mm512_mask_blend_epi16(0xAAAAAAAA, group_sums(args.dense, at), zeros);
  unrolled<M>([&](auto i) __attribute__((always_inline)) {
    const __m512i exact = _mm512_dpwssd_epi32(acc[i][p], levels, factors[i]);
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
  const auto tokens = static_cast<__mmask16>((1u << M) - 1);
  const __m512i none = _mm512_setzero_si512();
  const __m512i zeros = _mm512_maskz_loadu_epi32(tokens, args.rows.zeros + m);
  const __m512i sums = _mm512_maskz_loadu_epi32(tokens, args.rows.sums + g * args.rows.sum_stride + m);
  Factors factors;
  factors.set(pair16(_mm512_sub_epi32(none, zeros), _mm512_sub_epi32(none, sums)));
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
      ask_for_groups<2 * P>(dense, panel + 2 * P, g);
      Weights::template dot<M, P>(group, acc);
      fold<M, 2 * P>(args, m, panel, g, Weights::kExcess, acc, f);
      group.weights += group_bytes;
      group.codes += dense.group_steps * 4;
    }
    finish<M, 2 * P>(args, m, panel, f);
  }

  // What scales and corrects a group of the panels to come: a few lines beside pages of weights.
  template <int P>
  [[gnu::always_inline]] static void ask_for_groups(const PackedDense& dense, int64_t panel, int64_t g) {
    const int64_t entry = dense.compact ? 2 : 4;
    for (int p = 0; p < P; ++p) {
      const int64_t at = ((panel + p) * dense.groups + g) * kLanes;
      _mm_prefetch(static_cast<const char*>(dense.scales) + at * entry, _MM_HINT_T1);
      _mm_prefetch(static_cast<const char*>(dense.sums) + at * entry, _MM_HINT_T1);
    }
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

  // All tokens, P pairs of panels at a time as long as there are that many; the next panel.
  template <int P>
  static int64_t run_strips(const LinearArgs& args, const Tile* tile_of, int64_t panel) {
    const int64_t m = args.m_end - args.m_begin, tiles = (m + kTileTokens - 1) / kTileTokens;
    for (; panel + 2 * P <= args.panel_end + P % 2; panel += 2 * P)
      for (int64_t i = 0; i < tiles; ++i) {
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

// Up to here reading and unpacking the stored weights for every tile costs less than writing bytes for all.
constexpr int64_t kFewTokens = 6 * kTileTokens;

bool few(const LinearArgs& args) {
  return args.m_end - args.m_begin <= kFewTokens || args.dense.groups * args.dense.group_steps == 0;
}

}  // namespace

void linear_w4_a8(const LinearArgs& args) { few(args) ? Integer<W4>::run(args) : linear_w4_a8_many(args); }
void linear_w8_a8(const LinearArgs& args) { few(args) ? Integer<W8>::run(args) : linear_w8_a8_many(args); }

}  // namespace nibble::avx512
