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

// Weights come from the L2 cache for every tile of tokens, and from memory when there are few tokens: ask for them
// early.
constexpr int64_t kPrefetchBytes = 1024;

inline void prefetch(const uint8_t* weights) {
  _mm_prefetch(reinterpret_cast<const char*>(weights + kPrefetchBytes), _MM_HINT_T0);
}

template <int M, int P>
[[gnu::always_inline]] inline void clear(IntegerTile<M, P>& acc) {
  unrolled<M * P>([&](auto at) __attribute__((always_inline)) { acc[at / P][at % P] = _mm512_setzero_si512(); });
}

template <int M, int P>
[[gnu::always_inline]] inline void store(const IntegerTile<M, P>& acc, IntegerTile<M, P>& sums) {
  unrolled<M * P>([&](auto at) __attribute__((always_inline)) {
    _mm512_store_si512(&sums[at / P][at % P], acc[at / P][at % P]);
  });
}

struct W4 {
  // stored - level, of the first and the second panel of a pair.
  static constexpr int32_t kExcess[2] = {8, 0};
  static constexpr int64_t kPanelsInStep = 2;

  template <int M, int P>
  [[gnu::always_inline]] static void dot(const Group& group, IntegerTile<M, 2 * P>& sums) {
    IntegerTile<M, 2 * P> acc;
    clear<M, 2 * P>(acc);
    const __m512i low_bits = _mm512_set1_epi8(15);
    const uint8_t* weights = group.weights;
    const uint8_t* codes = group.codes;
    for (int64_t step = 0; step < group.steps; ++step, weights += 64, codes += 4) {
      __m512i both[P], low[P];
      for (int p = 0; p < P; ++p) {
        prefetch(weights + p * group.stride);
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
    store<M, 2 * P>(acc, sums);
  }
};

struct W8 {
  static constexpr int32_t kExcess[2] = {0, 0};
  static constexpr int64_t kPanelsInStep = 1;

  template <int M, int P>
  [[gnu::always_inline]] static void dot(const Group& group, IntegerTile<M, 2 * P>& sums) {
    IntegerTile<M, 2 * P> acc;
    clear<M, 2 * P>(acc);
    const uint8_t* weights = group.weights;
    const uint8_t* codes = group.codes;
    for (int64_t step = 0; step < group.steps; ++step, weights += 64, codes += 4) {
      __m512i w[2 * P];
      for (int p = 0; p < 2 * P; ++p) {
        prefetch(weights + p * group.stride);
        w[p] = load_weights(weights + p * group.stride);
      }
      unrolled<M>([&](auto i) __attribute__((always_inline)) {
        const __m512i x = broadcast4(codes + i * group.code_stride);
        unrolled<2 * P>([&](auto p) __attribute__((always_inline)) { dot4(acc[i][p], x, w[p]); });
      });
    }
    store<M, 2 * P>(acc, sums);
  }
};

// Modulo 2^32, as all sums are.
inline int32_t wrapping_product(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
}

// f += scale * (acc - excess and zero * sum(codes) - zero[m] * sum(levels)) for one panel of one group.
template <int M, int P>
[[gnu::always_inline]] inline void fold_panel(const LinearArgs& args, int64_t m, int64_t at, int64_t g, int p,
                                              int32_t excess, const IntegerTile<M, P>& acc, FloatTile<M, P>& f) {
  const PackedDense& dense = args.dense;
  const __m512 scale = _mm512_loadu_ps(dense.scales + at);
  const __m512i sums = _mm512_loadu_si512(dense.sums + at);
  __m512i zeros = _mm512_set1_epi32(excess);
  if (dense.zeros != nullptr) zeros = _mm512_add_epi32(zeros, _mm512_loadu_si512(dense.zeros + at));
  for (int i = 0; i < M; ++i) {
    const int32_t code_sum = args.rows.sums[(m + i) * dense.groups + g];
    const __m512i by_code_sum = dense.zeros == nullptr ? _mm512_set1_epi32(wrapping_product(excess, code_sum))
                                                       : _mm512_mullo_epi32(zeros, _mm512_set1_epi32(code_sum));
    const __m512i by_zero = _mm512_mullo_epi32(sums, _mm512_set1_epi32(args.rows.zeros[m + i]));
    const __m512i exact = _mm512_sub_epi32(_mm512_sub_epi32(acc[i][p], by_code_sum), by_zero);
    f[i][p] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(exact), f[i][p]);
  }
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
    FloatTile<M, 2 * P> f{};
    for (int64_t g = 0; g < dense.groups; ++g) {
      IntegerTile<M, 2 * P> acc;
      Weights::template dot<M, P>(group, acc);
      for (int p = 0; p < 2 * P; ++p)
        fold_panel<M, 2 * P>(args, m, ((panel + p) * dense.groups + g) * kLanes, g, p, Weights::kExcess[p % 2], acc, f);
      group.weights += group_bytes;
      group.codes += dense.group_steps * 4;
    }
    finish<M, 2 * P>(args, m, panel, f);
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
