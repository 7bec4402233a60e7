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
//
// Many tokens multiply bytes instead, which are made of a strip's 4-bit weights once for all of them (Blocked, below).
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

constexpr int64_t kTileTokens = 12;

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
        ask_ahead<(P > 1)>(weights + p * group.stride, kSixteenPages);
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
        ask_ahead<(P > 1)>(weights + p * group.stride, distance);
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

// Many tokens: tiles of 12 tokens x 2 panels whose weights are bytes: as stored, or made of 4-bit ones once for all
// tiles of up to 16 (192 tokens, whose codes stay in the L2 cache). While the tiles of one block of inputs multiply,
// they make the weights of the next one, a few steps at a time.
constexpr int64_t kBlockTiles = 16, kStep = 64, kSegment = 16;
constexpr int64_t kBlockSteps = 512, kBlockGroups = 64;

// acc = sum of two products of 16 bits in every lane. In assembly for the same reason.
[[gnu::always_inline]] inline void start_sum(__m512i& acc, __m512i levels, __m512i factors) {
  asm("vpmaddwd %2, %1, %0" : "=v"(acc) : "v"(levels), "v"(factors));
}

// Two panels and a range of inputs.
struct Block {
  int64_t panel, begin, steps;  // steps counted from the first input
  const uint8_t* stored;        // where a layout makes its weights of others
  const uint8_t* weights[2];    // bytes of either panel, [steps][64]
  uint8_t* room;
  int64_t made;  // steps
};

// Two panels of one short group: what scales its sums, and in 16 bits -sum(levels) and -(excess + zero).
struct Entries {
  __m512 scales[2];
  __m512i levels[2];
};

struct Scratch {
  IntegerTile<kTileTokens, 2> sums[kBlockTiles];  // of a group that is not over yet
  FloatTile<kTileTokens, 2> outputs[kBlockTiles];
  Entries entries[kBlockGroups];
  alignas(64) uint8_t weights[2][2 * kBlockSteps * kStep];
};

// Levels + 8 of both panels.
struct Unpacked4 {
  static constexpr int32_t kExcess = 8;

  static void place(const PackedDense& dense, Block& block) {
    const auto* codes = static_cast<const uint8_t*>(dense.codes);
    block.stored = codes + (block.panel / 2 * dense.groups * dense.group_steps + block.begin) * kStep;
    block.weights[0] = block.room;
    block.weights[1] = block.room + block.steps * kStep;
  }

  [[gnu::always_inline]] static void make(const Block& block, int64_t begin, int64_t end) {
    const __m512i low_bits = _mm512_set1_epi8(15), eights = _mm512_set1_epi8(8);
    const uint8_t* const from = block.stored;
    uint8_t* const low = block.room;
    uint8_t* const high = low + block.steps * kStep;
    for (int64_t at = begin * kStep; at < end * kStep; at += kStep) {
      const __m512i both = _mm512_loadu_si512(from + at);
      _mm_prefetch(reinterpret_cast<const char*>(from + at + 4096), _MM_HINT_T1);
      _mm512_store_si512(low + at, _mm512_and_si512(both, low_bits));
      // (both >> 4 & 15) ^ 8
      _mm512_store_si512(high + at, _mm512_ternarylogic_epi32(_mm512_srli_epi16(both, 4), low_bits, eights, 0x6A));
    }
  }
};

// Multiplied as they are stored: only asked for.
struct Stored8 {
  static constexpr int32_t kExcess = 0;

  static void place(const PackedDense& dense, Block& block) {
    const int64_t steps = dense.groups * dense.group_steps;
    const auto* codes = static_cast<const uint8_t*>(dense.codes);
    for (int p = 0; p < 2; ++p) block.weights[p] = codes + ((block.panel + p) * steps + block.begin) * kStep;
  }

  [[gnu::always_inline]] static void make(const Block& block, int64_t begin, int64_t end) {
    for (int64_t at = begin * kStep; at < end * kStep; at += kStep)
      for (const uint8_t* weights : block.weights)
        _mm_prefetch(reinterpret_cast<const char*>(weights + at), _MM_HINT_T1);
  }
};

template <class Layout>
struct Blocked {
  // The tiles of one strip of panels.
  struct Strip {
    const LinearArgs& args;
    Scratch& scratch;
    int64_t first_tile, end_tile, all_tiles;  // of the strip, and of the call
    int64_t m, tile;                          // where it stands
    Block now, next;
    int64_t share;  // steps of the next block to make in a segment

    int64_t token(int64_t of) const { return args.m_begin + (args.m_end - args.m_begin) * of / all_tiles; }
  };

  [[gnu::always_inline]] static void make_share(Strip& strip) {
    Block& next = strip.next;
    const int64_t stop = smaller(next.made + strip.share, next.steps);
    Layout::make(next, next.made, stop);
    next.made = stop;
  }

  // acc += codes * weights over `steps` steps from `begin` on, both even.
  template <int M>
  [[gnu::always_inline]] static void dot(Strip& strip, int64_t begin, int64_t steps, IntegerTile<M, 2>& acc) {
    const int64_t stride = strip.args.rows.stride;
    const uint8_t* first_codes = strip.args.rows.codes + strip.m * stride + (strip.now.begin + begin) * 4;
    // Three tokens are addressed from one pointer: more pointers than that do not fit the registers.
    const uint8_t* codes[4] = {first_codes, first_codes + 3 * stride, first_codes + 6 * stride,
                               first_codes + 9 * stride};
    const uint8_t* first = strip.now.weights[0] + begin * kStep;
    const uint8_t* second = strip.now.weights[1] + begin * kStep;
    int64_t left = steps;
    do {
      unrolled<M>([&](auto i) __attribute__((always_inline)) {
        _mm_prefetch(reinterpret_cast<const char*>(codes[i / 3] + i % 3 * stride + 64), _MM_HINT_T0);
      });
      make_share(strip);
      const uint8_t* const end = first + smaller(left, kSegment) * kStep;
      do {
        unrolled<2>([&](auto half) __attribute__((always_inline)) {
          const __m512i w0 = load_weights(first + half * kStep), w1 = load_weights(second + half * kStep);
          unrolled<M>([&](auto i) __attribute__((always_inline)) {
            const __m512i x = broadcast4(codes[i / 3] + i % 3 * stride + half * 4);
            dot4(acc[i][0], x, w0);
            dot4(acc[i][1], x, w1);
          });
        });
        unrolled<(M + 2) / 3>([&](auto i) __attribute__((always_inline)) { codes[i] += 8; });
        first += 2 * kStep;
        second += 2 * kStep;
      } while (first < end);
      left -= kSegment;
    } while (left > 0);
  }

  // Whole groups. Sums start from their corrections.
  template <int M>
  [[gnu::always_inline]] static void short_groups(Strip& strip, FloatTile<kTileTokens, 2>& f) {
    const LinearArgs& args = strip.args;
    const int64_t in_group = args.dense.group_steps, sum_stride = args.rows.sum_stride;
    const auto tokens = static_cast<__mmask16>((1u << M) - 1);
    const __m512i zeros = _mm512_maskz_loadu_epi32(tokens, args.rows.zeros + strip.m);
    const int32_t* sums = args.rows.sums + strip.now.begin / in_group * sum_stride + strip.m;
    const Entries* entries = strip.scratch.entries;
    for (int64_t at = 0; at < strip.now.steps; at += in_group, ++entries, sums += sum_stride) {
      Factors factors;
      factors.set(_mm512_or_si512(_mm512_slli_epi32(_mm512_maskz_loadu_epi32(tokens, sums), 16), zeros));
      const __m512i levels[2] = {entries->levels[0], entries->levels[1]};
      IntegerTile<M, 2> acc;
      unrolled<M>([&](auto i) __attribute__((always_inline)) {
        const __m512i factor = factors[i];
        start_sum(acc[i][0], levels[0], factor);
        start_sum(acc[i][1], levels[1], factor);
      });
      dot<M>(strip, at, in_group, acc);
      const __m512 scales[2] = {entries->scales[0], entries->scales[1]};
      unrolled<2 * M>([&](auto i) __attribute__((always_inline)) {
        f[i / 2][i % 2] = _mm512_fmadd_ps(scales[i % 2], _mm512_cvtepi32_ps(acc[i / 2][i % 2]), f[i / 2][i % 2]);
      });
    }
  }

  // A group, or a part of one.
  template <int M>
  [[gnu::always_inline]] static void long_group(Strip& strip, FloatTile<kTileTokens, 2>& f) {
    const int64_t in_group = strip.args.dense.group_steps;
    IntegerTile<kTileTokens, 2>& sums = strip.scratch.sums[strip.tile];
    IntegerTile<M, 2> acc;
    if (strip.now.begin % in_group == 0) {
      clear<M, 2>(acc);
    } else {
      unrolled<2 * M>([&](auto at) __attribute__((always_inline)) {
        acc[at / 2][at % 2] = _mm512_load_si512(&sums[at / 2][at % 2]);
      });
    }
    dot<M>(strip, 0, strip.now.steps, acc);
    unrolled<2 * M>([&](auto at) __attribute__((always_inline)) {
      _mm512_store_si512(&sums[at / 2][at % 2], acc[at / 2][at % 2]);
    });
    if ((strip.now.begin + strip.now.steps) % in_group == 0) fold_long_group<M>(strip, sums, f);
  }

  // f += scale * corrected sums. The sums of levels and of codes do not fit 16 bits: their upper parts are multiplied
  // first.
  template <int M>
  [[gnu::always_inline]] static void fold_long_group(const Strip& strip, const IntegerTile<kTileTokens, 2>& sums,
                                                     FloatTile<kTileTokens, 2>& f) {
    constexpr int kBits = 15;
    const LinearArgs& args = strip.args;
    const PackedDense& dense = args.dense;
    const int64_t g = strip.now.begin / dense.group_steps;
    const __m512i none = _mm512_setzero_si512(), low_bits = _mm512_set1_epi32((1 << kBits) - 1);
    __m512i upper[2], lower[2];
    __m512 scales[2];
    for (int p = 0; p < 2; ++p) {
      const int64_t at = ((strip.now.panel + p) * dense.groups + g) * kLanes;
      const __m512i levels = group_sums(dense, at);
      const __m512i zeros = _mm512_sub_epi32(none, zeros_of(dense, at, Layout::kExcess));
      upper[p] = pair16(zeros, _mm512_sub_epi32(none, _mm512_srai_epi32(levels, kBits)));
      lower[p] = pair16(zeros, _mm512_sub_epi32(none, _mm512_and_si512(levels, low_bits)));
      scales[p] = group_scales(dense, at);
    }
    const auto tokens = static_cast<__mmask16>((1u << M) - 1);
    const __m512i codes = _mm512_maskz_loadu_epi32(tokens, args.rows.sums + g * args.rows.sum_stride + strip.m);
    const __m512i code_zeros = _mm512_maskz_loadu_epi32(tokens, args.rows.zeros + strip.m);
    Factors upper_codes, lower_codes;
    upper_codes.set(pair16(_mm512_srai_epi32(codes, kBits), code_zeros));
    lower_codes.set(pair16(_mm512_and_si512(codes, low_bits), code_zeros));
    for (int i = 0; i < M; ++i)
      for (int p = 0; p < 2; ++p) {
        const __m512i off = _mm512_slli_epi32(_mm512_madd_epi16(upper[p], upper_codes[i]), kBits);
        const __m512i exact = _mm512_dpwssd_epi32(_mm512_add_epi32(sums[i][p], off), lower[p], lower_codes[i]);
        f[i][p] = _mm512_fmadd_ps(scales[p], _mm512_cvtepi32_ps(exact), f[i][p]);
      }
  }

  // One tile and one block of inputs.
  template <int M, bool kShort>
  [[gnu::noinline]] static void tile(Strip& strip) {
    FloatTile<kTileTokens, 2>& f = strip.scratch.outputs[strip.tile];
    const PackedDense& dense = strip.args.dense;
    const bool last = strip.now.begin + strip.now.steps == dense.groups * dense.group_steps;
    if (last) ask_for_outputs<M>(strip);
    if (strip.now.begin == 0)
      unrolled<2 * M>([&](auto at)
                          __attribute__((always_inline)) { _mm512_store_ps(&f[at / 2][at % 2], _mm512_setzero_ps()); });
    if constexpr (kShort) {
      short_groups<M>(strip, f);
    } else {
      long_group<M>(strip, f);
    }
    if (last) finish<M>(strip, f);
  }

  template <int M>
  [[gnu::always_inline]] static void ask_for_outputs(const Strip& strip) {
    const LinearArgs& args = strip.args;
    for (int i = 0; i < M; ++i)
      for (int p = 0; p < 2; ++p)
        __builtin_prefetch(args.y + (strip.m + i) * args.y_stride + (strip.now.panel + p) * kLanes, 1);
  }

  // y = scale[m] * f + r
  template <int M>
  [[gnu::always_inline]] static void finish(const Strip& strip, const FloatTile<kTileTokens, 2>& f) {
    FloatTile<M, 2> r;
    begin_outputs<M, 2>(strip.args, strip.m, strip.now.panel, r);
    for (int i = 0; i < M; ++i) {
      const __m512 scale = _mm512_set1_ps(strip.args.rows.scales[strip.m + i]);
      for (int p = 0; p < 2; ++p) r[i][p] = _mm512_fmadd_ps(scale, f[i][p], r[i][p]);
    }
    store_outputs<M, 2>(strip.args, strip.m, strip.now.panel, r);
  }

  static void make_entries(const PackedDense& dense, const Block& block, Scratch& scratch) {
    const int64_t first = block.begin / dense.group_steps, count = block.steps / dense.group_steps;
    const __m512i none = _mm512_setzero_si512();
    for (int64_t g = 0; g < count; ++g)
      for (int p = 0; p < 2; ++p) {
        const int64_t at = ((block.panel + p) * dense.groups + first + g) * kLanes;
        scratch.entries[g].levels[p] = pair16(_mm512_sub_epi32(none, group_sums(dense, at)),
                                              _mm512_sub_epi32(none, zeros_of(dense, at, Layout::kExcess)));
        scratch.entries[g].scales[p] = group_scales(dense, at);
      }
  }

  // The block of these panels that begins there, nothing of it made.
  static Block block_at(const PackedDense& dense, int64_t panel, int64_t begin, uint8_t* room) {
    const int64_t in_group = dense.group_steps, steps = dense.groups * in_group;
    const int64_t end = dense.group_size <= kShortGroup
                            ? smaller(begin + smaller(kBlockSteps / in_group, kBlockGroups) * in_group, steps)
                            : smaller(begin + kBlockSteps, (begin / in_group + 1) * in_group);
    Block block{panel, begin, end - begin, nullptr, {}, room, 0};
    Layout::place(dense, block);
    return block;
  }

  static void make_rest(Block& block) {
    Layout::make(block, block.made, block.steps);
    block.made = block.steps;
  }

  using Tile = void (*)(Strip&);

  template <bool kShort>
  static void run_block(Strip& strip) {
    static constexpr Tile kTiles[] = {nullptr,         nullptr,         nullptr,          nullptr,
                                      nullptr,         nullptr,         tile<6, kShort>,  tile<7, kShort>,
                                      tile<8, kShort>, tile<9, kShort>, tile<10, kShort>, tile<11, kShort>,
                                      tile<12, kShort>};
    const int64_t tiles = strip.end_tile - strip.first_tile;
    strip.share = (kSegment + tiles - 1) / tiles;
    if (kShort) make_entries(strip.args.dense, strip.now, strip.scratch);
    for (strip.tile = 0; strip.tile < tiles; ++strip.tile) {
      const int64_t at = strip.first_tile + strip.tile;
      strip.m = strip.token(at);
      kTiles[strip.token(at + 1) - strip.m](strip);
    }
    make_rest(strip.next);
  }

  static void run(const LinearArgs& args) {
    Scratch scratch;
    const PackedDense& dense = args.dense;
    const int64_t tiles = (args.m_end - args.m_begin + kTileTokens - 1) / kTileTokens;
    const int64_t steps = dense.groups * dense.group_steps;
    Block first = block_at(dense, args.panel_begin, 0, scratch.weights[0]);
    make_rest(first);
    Strip strip{args, scratch, 0, 0, tiles, 0, 0, first, first, 0};
    for (int64_t tile = 0; tile < tiles; tile = strip.end_tile)
      for (int64_t panel = args.panel_begin; panel < args.panel_end; panel += 2) {
        strip.first_tile = tile;
        strip.end_tile = smaller(tile + kBlockTiles, tiles);
        const int64_t next_panel = panel + 2 < args.panel_end ? panel + 2 : args.panel_begin;
        for (bool last = false; !last; strip.now = strip.next) {
          const int64_t end = strip.now.begin + strip.now.steps;
          last = end == steps;
          uint8_t* const room = strip.now.room == scratch.weights[0] ? scratch.weights[1] : scratch.weights[0];
          strip.next = last ? block_at(dense, next_panel, 0, room) : block_at(dense, panel, end, room);
          dense.group_size <= kShortGroup ? run_block<true>(strip) : run_block<false>(strip);
        }
      }
  }
};

// Up to here reading and unpacking the stored weights for every tile costs less than writing bytes for all.
constexpr int64_t kFewTokens = 6 * kTileTokens;

template <class Weights, class Layout>
void run(const LinearArgs& args) {
  if (args.m_end - args.m_begin > kFewTokens && args.dense.groups * args.dense.group_steps > 0)
    return Blocked<Layout>::run(args);
  Integer<Weights>::run(args);
}

}  // namespace

void linear_w4_a8(const LinearArgs& args) { run<W4, Unpacked4>(args); }
void linear_w8_a8(const LinearArgs& args) { run<W8, Stored8>(args); }

}  // namespace nibble::avx512
