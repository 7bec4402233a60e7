// Integer weights times quantized activations for many tokens: tiles of 12 tokens x 2 panels whose weights are bytes,
// as stored, or made of 4-bit ones once for all tiles of up to 16 (192 tokens, whose codes stay in the L2 cache). While
// the tiles of one block of inputs multiply, they make the weights of the next one, a few steps at a time. Registers:
// 24 sums + 2 weights + 1 broadcast of 32.
#include "kernels/avx512/integers.h"
#include "kernels/avx512/rows.h"

namespace nibble::avx512 {
namespace {

// Tiles of a strip; bytes of a step; steps between two shares of making; steps and groups of a block.
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

}  // namespace

void linear_w4_a8_many(const LinearArgs& args) { Blocked<Unpacked4>::run(args); }
void linear_w8_a8_many(const LinearArgs& args) { Blocked<Stored8>::run(args); }

}  // namespace nibble::avx512
