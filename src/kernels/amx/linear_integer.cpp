// Integer weights times quantized activations in tiles: linear_w4_a8 and linear_w8_a8 for many tokens.
//
// tdpbusd multiplies 16 tokens x 64 inputs (unsigned bytes) with 64 inputs x 16 outputs (signed bytes) in 16 cycles.
// Its second operand is 16 rows of four inputs of 16 outputs: sixteen steps of a panel as they are packed. So 8-bit
// weights are loaded as they lie, and so is a pair of 4-bit panels, whose bytes are 16 * second + (first + 8); masked
// to their low nibbles, written once for all tokens, they give the first panel's sums, and the difference of both
// sixteen times the second's (as in avx512/linear_integer.cpp).
//
// Blocking: 256 tokens, whose codes stay in the L2 cache; a chunk of two panels and up to 4096 inputs, which stays
// there too; tiles of 32 tokens x 32 outputs. Tile registers: 4 sums, 2 codes, 2 weights of 8, so that four loads feed
// four multiplications; their lines are asked for one multiplication ahead. While they run, the vector unit makes the
// next chunk's operands, asks for outputs and folds the last group's sums into f (corrected, converted, scaled), a few
// lines with every multiplication; a long group's sums are folded, and the outputs written, while another tile is
// multiplied. Sums wait in memory longer only where a group has more than 4096 inputs.
#include "kernels/amx/intrinsics.h"
#include "kernels/amx/rows.h"
#include "kernels/amx/tiles.h"

namespace nibble::amx {
namespace {

constexpr int kPanels = 2, kHalves = 2;  // of a tile: outputs and tokens come in halves of 16
constexpr int64_t kHalfTokens = 16, kTileTokens = 32, kBlockTokens = 256, kTiles = kBlockTokens / kTileTokens;
constexpr int64_t kTileSteps = 16, kChunkSteps = 1024;
constexpr int64_t kStep = 64;  // bytes

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Sixteen entries of a group's scales, zeros and sums, as float32 and int32.
inline __m512 group_scales(const PackedDense& dense, int64_t at) {
  if (!dense.compact) return _mm512_loadu_ps(static_cast<const float*>(dense.scales) + at);
  const auto* halves = static_cast<const uint16_t*>(dense.scales) + at;
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
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

// Sums or outputs of a tile: one vector of 16 outputs for every panel and token.
struct IntegerBlock {
  __m512i at[kPanels][kTileTokens];
};

struct FloatBlock {
  __m512 at[kPanels][kTileTokens];
};

// Scratch of one call, on the stack: of every tile of the token block, the sums of a group that is longer than a chunk
// and the outputs so far; and the low nibbles of this chunk and the next.
struct Scratch {
  IntegerBlock sums[kTiles];
  FloatBlock outputs[kTiles];
  alignas(64) uint8_t low[2][kChunkSteps * kStep];
};

// Tile registers: the sums of both halves of the tokens with the first panel (0, 2) and the second (1, 3), the codes of
// both halves (4, 5), the weights of both panels (6, 7).
void configure(int64_t first_half, int64_t second_half) {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) {
    const bool first = tile == 0 || tile == 1 || tile == 4, weights = tile > 5;
    const int64_t rows = weights ? kTileSteps : first ? first_half : second_half;
    shapes.row_bytes[tile] = rows > 0 ? 64 : 0;
    shapes.rows[tile] = static_cast<uint8_t>(rows);
  }
  load_shapes(shapes);
}

template <int H>
[[gnu::always_inline]] inline void clear_tiles() {
  clear_tile<0>();
  clear_tile<1>();
  if constexpr (H == 2) {
    clear_tile<2>();
    clear_tile<3>();
  }
}

template <int H>
[[gnu::always_inline]] inline void load_tiles(const IntegerBlock& sums) {
  load_tile<0>(&sums.at[0][0], kStep);
  load_tile<1>(&sums.at[1][0], kStep);
  if constexpr (H == 2) {
    load_tile<2>(&sums.at[0][kHalfTokens], kStep);
    load_tile<3>(&sums.at[1][kHalfTokens], kStep);
  }
}

template <int H>
[[gnu::always_inline]] inline void store_tiles(IntegerBlock& sums) {
  store_tile<0>(&sums.at[0][0], kStep);
  store_tile<1>(&sums.at[1][0], kStep);
  if constexpr (H == 2) {
    store_tile<2>(&sums.at[0][kHalfTokens], kStep);
    store_tile<3>(&sums.at[1][kHalfTokens], kStep);
  }
}

// A chunk of weights: the operands of both panels, each [steps][64 bytes]. `low` is where a layout that needs it writes
// what it makes of the stored codes.
struct Chunk {
  int64_t begin = 0, steps = 0;
  const uint8_t* panel[kPanels] = {};
  uint8_t* low = nullptr;
  int64_t ready = 0;  // steps made so far
};

// The tokens of a tile: those of the first half, which is full or as full as the second, and all.
struct Tokens {
  int64_t first, half, count;
};

// Weights come from memory once, in one stream, whose prefetcher stops at the end of every page: lines are asked for
// 64 KiB ahead in an order that goes through sixteen pages side by side (as in avx512/tiles.h).
[[gnu::always_inline]] inline void prefetch_ahead(const uint8_t* weights) {
  const auto at = reinterpret_cast<uintptr_t>(weights);
  const uintptr_t page = (at >> 6 & 15) << 12, line = (at >> 10 & 63) << 6;
  const uintptr_t ahead = (at & ~uintptr_t{0xFFFF}) + 0x10000 + page + line;
  __builtin_prefetch(reinterpret_cast<const void*>(ahead), 0, 2);
}

// The lines of the operands that are loaded next, which come from the second-level cache. In assembly, or the compiler
// keeps sixteen distances in registers.
[[gnu::always_inline]] inline void prefetch_tile(const uint8_t* from, int64_t stride) {
  for (int64_t row = 0; row < kTileSteps; row += 4, from += 4 * stride)
    asm volatile("prefetcht0 (%0)\n prefetcht0 (%0,%1)\n prefetcht0 (%0,%1,2)\n prefetcht0 (%0,%2)"
                 :
                 : "r"(from), "r"(stride), "r"(3 * stride));
}

[[gnu::always_inline]] inline void prefetch_weights(const uint8_t* from) {
#pragma GCC unroll 16
  for (int64_t row = 0; row < kTileSteps; ++row)
    _mm_prefetch(reinterpret_cast<const char*>(from + row * kStep), _MM_HINT_T0);
}

// Layouts: where a chunk's operands lie, and how a tile's vectors become the panels' sums of code * (level + excess).
struct W4 {
  static constexpr int32_t kExcess[2] = {8, 0};
  static constexpr int64_t kPanelsInStep = 2;

  static void place(const uint8_t* codes, int64_t, Chunk& chunk) {
    chunk.panel[0] = chunk.low;
    chunk.panel[1] = codes;
  }

  // One more step of the chunk.
  [[gnu::always_inline]] static void make_step(Chunk& chunk) {
    const int64_t at = chunk.ready++ * kStep;
    const __m512i both = _mm512_loadu_si512(chunk.panel[1] + at);
    prefetch_ahead(chunk.panel[1] + at);
    _mm512_store_si512(chunk.low + at, _mm512_and_si512(both, _mm512_set1_epi8(15)));
  }

  template <int P>
  [[gnu::always_inline]] static __m512i sum(const IntegerBlock& sums, int64_t i) {
    if constexpr (P == 0) return sums.at[0][i];
    return _mm512_srai_epi32(_mm512_sub_epi32(sums.at[1][i], sums.at[0][i]), 4);
  }
};

struct W8 {
  static constexpr int32_t kExcess[2] = {0, 0};
  static constexpr int64_t kPanelsInStep = 1;

  static void place(const uint8_t* codes, int64_t panel_bytes, Chunk& chunk) {
    chunk.panel[0] = codes;
    chunk.panel[1] = codes + panel_bytes;
  }

  // Both are multiplied as they lie: only asked for.
  [[gnu::always_inline]] static void make_step(Chunk& chunk) {
    const int64_t at = chunk.ready++ * kStep;
    for (const uint8_t* panel : chunk.panel) _mm_prefetch(reinterpret_cast<const char*>(panel + at), _MM_HINT_T1);
  }

  template <int P>
  [[gnu::always_inline]] static __m512i sum(const IntegerBlock& sums, int64_t i) {
    return sums.at[P][i];
  }
};

template <class Layout>
[[gnu::always_inline]] inline void make_steps(Chunk& chunk, int64_t steps) {
  for (int64_t end = smaller(chunk.ready + steps, chunk.steps); chunk.ready < end;) Layout::make_step(chunk);
}

// A long group's sums of one tile, to be folded into f row by row while other tiles are multiplied: a row is a token of
// the first half, or 16 and a token of the second. Its factors do not fit 16 bits, so that their upper parts are
// multiplied first: of the panels, -(excess + zero) and -sum(levels); of the tokens, sum(codes) and zero[m].
struct LongFold {
  const IntegerBlock* sums;
  FloatBlock* f;
  bool first, last;  // f begins; is the output
  int64_t row, begin[kHalves], end[kHalves];
  __m512i upper[kPanels], lower[kPanels];
  __m512 scales[kPanels], bias[kPanels];
  __mmask16 lanes[kPanels];
  const int32_t* code_sums;  // by token
  float* y;
};

// Tokens of a tile whose outputs have been asked for, and how many are with every multiplication.
struct Asked {
  int64_t token, share;
};

// Two panels and the tokens of a block.
template <class Layout>
struct Strip {
  const LinearArgs& args;
  int64_t panel, m_begin, m_end;
  Scratch& scratch;
  LongFold& pending;
  const PackedDense& dense = args.dense;
  const int64_t tokens = m_end - m_begin, tiles = (tokens + kTileTokens - 1) / kTileTokens;
  const int64_t all_steps = dense.groups * dense.group_steps;

  Tokens tokens_of(int64_t tile) const {  // tiles as equal as can be
    const int64_t first = tokens * tile / tiles, count = tokens * (tile + 1) / tiles - first;
    return {m_begin + first, count > kHalfTokens ? (count + 1) / 2 : count, count};
  }

  // The chunk of these panels that begins at `begin`, nothing of it made yet.
  static Chunk chunk_at(const PackedDense& dense, int64_t panel, int64_t begin, uint8_t* low) {
    const int64_t steps = dense.groups * dense.group_steps;
    Chunk chunk;
    chunk.begin = begin;
    chunk.steps = end_of_chunk(dense, begin) - begin;
    chunk.low = low;
    const auto* codes = static_cast<const uint8_t*>(dense.codes);
    Layout::place(codes + (panel / Layout::kPanelsInStep * steps + begin) * kStep, steps * kStep, chunk);
    return chunk;
  }

  // Chunks end where a group does, or inside a group that is longer than a chunk.
  static int64_t end_of_chunk(const PackedDense& dense, int64_t begin) {
    const int64_t in_group = dense.group_steps, steps = dense.groups * in_group;
    if (steps == 0) return 0;
    if (in_group <= kChunkSteps) return smaller(begin + kChunkSteps / in_group * in_group, steps);
    return smaller(begin + kChunkSteps, (begin / in_group + 1) * in_group);
  }

  // `chunk` is the first one of these panels, made; it becomes the first one of the panels `next_panel`.
  void run(Chunk& chunk, int64_t next_panel) {
    for (bool last = false; !last;) {
      const int64_t end = chunk.begin + chunk.steps;
      last = end == all_steps;
      uint8_t* low = chunk.low == scratch.low[0] ? scratch.low[1] : scratch.low[0];
      Chunk next = last ? chunk_at(dense, next_panel, 0, low) : chunk_at(dense, panel, end, low);
      run_chunk(chunk, next);
      make_steps<Layout>(next, next.steps);
      chunk = next;
    }
  }

  void run_chunk(const Chunk& chunk, Chunk& next) {
    Tokens configured{};
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const Tokens t = tokens_of(tile);
      if (t.count != configured.count) configure(t.half, t.count - t.half);
      configured = t;
      if (t.count > kHalfTokens) {
        run_tile<2>(tile, t, chunk, next);
      } else {
        run_tile<1>(tile, t, chunk, next);
      }
    }
  }

  template <int H>
  void run_tile(int64_t tile, const Tokens& t, const Chunk& chunk, Chunk& next) {
    FloatBlock& f = scratch.outputs[tile];
    const bool ends = chunk.begin + chunk.steps == all_steps;
    Asked asked{ends ? 0 : t.count, t.count * kTileSteps / (chunk.steps + 1) + 1};
    if (dense.group_size > kShortGroup && all_steps > 0) return run_long_groups<H>(tile, t, chunk, next, f, asked);
    if (chunk.begin == 0) clear(f);
    run_short_groups<H>(t, chunk, next, f, asked);
    if (ends) finish(t, f);
  }

  // Multiplies a group while the one before is folded.
  template <int H>
  void run_short_groups(const Tokens& t, const Chunk& chunk, Chunk& next, FloatBlock& f, Asked& asked) {
    const int64_t in_group = dense.group_steps, share = share_of_next();
    ShortFold last;
    for (int64_t at = chunk.begin; at < chunk.begin + chunk.steps; at += in_group) {
      IntegerBlock& sums = scratch.sums[at / in_group % 2];
      clear_tiles<H>();
      multiply<H>(
          t, chunk, at, at + in_group, [&](int64_t step) __attribute__((always_inline)) {
            make_steps<Layout>(next, share);
            ask_for_outputs(t, asked);
            fold_rows(last, kTileTokens * step / in_group, kTileTokens * (step + kTileSteps) / in_group, f);
          });
      store_tiles<H>(sums);
      last = short_fold(t, at / in_group, sums);
    }
    fold_rows(last, 0, kTileTokens, f);
  }

  // Multiplies while the last group that ended, of these tokens or of others, is folded.
  template <int H>
  void run_long_groups(int64_t tile, const Tokens& t, const Chunk& chunk, Chunk& next, FloatBlock& f, Asked& asked) {
    const int64_t in_group = dense.group_steps, end = chunk.begin + chunk.steps, share = share_of_next();
    IntegerBlock& sums = scratch.sums[tile];
    for (int64_t at = chunk.begin, stop; at < end; at = stop) {
      stop = smaller(end, (at / in_group + 1) * in_group);
      if (at % in_group == 0) {
        clear_tiles<H>();
      } else {
        load_tiles<H>(sums);
      }
      const int64_t turns = (stop - at) / kTileSteps, rows = (kTileTokens + turns - 1) / turns;
      multiply<H>(
          t, chunk, at, stop, [&](int64_t) __attribute__((always_inline)) {
            make_steps<Layout>(next, share);
            ask_for_outputs(t, asked);
            fold_rows(args, pending, rows);
          });
      store_tiles<H>(sums);
      if (stop % in_group == 0) put_off(t, at / in_group, sums, f);
    }
  }

  // Steps of the next chunk to make with every multiplication, so that all tiles together make all.
  int64_t share_of_next() const { return (kTileSteps + tiles - 1) / tiles; }

  // The sums in the tile registers += codes * weights over steps [begin, end). beside(step), counted from `begin`, is
  // work for the vector unit meanwhile.
  template <int H, class Beside>
  [[gnu::always_inline]] void multiply(const Tokens& t, const Chunk& chunk, int64_t begin, int64_t end,
                                       const Beside& beside) const {
    const int64_t stride = args.rows.stride;
    const uint8_t* codes = args.rows.codes + t.first * stride + begin * 4;
    const uint8_t* first = chunk.panel[0] + (begin - chunk.begin) * kStep;
    const uint8_t* second = chunk.panel[1] + (begin - chunk.begin) * kStep;
    const bool ahead = tiles > 1;  // else they come from memory, and were asked for before
    for (int64_t step = 0; step < end - begin; step += kTileSteps) {
      const uint8_t* const full = codes + step * 4;
      const uint8_t* const rest = full + t.half * stride;
      const uint8_t* const w0 = first + step * kStep;
      const uint8_t* const w1 = second + step * kStep;
      load_tile<4>(full, stride);
      load_tile<6>(w0, kStep);
      if (ahead) prefetch_tile(full + 64, stride);
      dot_tiles<0, 4, 6>();
      load_tile<7>(w1, kStep);
      if (ahead) prefetch_weights(w0 + kTileSteps * kStep);
      dot_tiles<1, 4, 7>();
      if constexpr (H == 2) {
        load_tile<5>(rest, stride);
        if (ahead) prefetch_tile(rest + 64, stride);
        dot_tiles<2, 5, 6>();
        dot_tiles<3, 5, 7>();
      }
      if (ahead) prefetch_weights(w1 + kTileSteps * kStep);
      beside(step);
    }
  }

  static void clear(FloatBlock& outputs) {
    for (int p = 0; p < kPanels; ++p)
      for (int64_t i = 0; i < kTileTokens; ++i) outputs.at[p][i] = _mm512_setzero_ps();
  }

  // Raw sums are of code * (level + excess); what makes them those of (code - zero[m]) * (level - zero) is
  //   - (excess + zero) * sum(codes) - zero[m] * sum(levels)
  // modulo 2^32. Up to 128 inputs every factor fits 16 bits: one vpdpwssd makes both products.
  static constexpr int64_t kShortGroup = 128;
  static constexpr int kUpperBits = 15;

  // The low halves of `low` and `high` in one word.
  static __m512i pair16(__m512i low, __m512i high) {
    return _mm512_mask_blend_epi16(0xAAAAAAAA, low, _mm512_slli_epi32(high, 16));
  }

  int64_t entry(int p, int64_t g) const { return ((panel + p) * dense.groups + g) * kLanes; }

  // What multiplies sum(codes): the excess of the stored level and the zero.
  __m512i zeros_of(int p, int64_t g) const {
    const __m512i excess = _mm512_set1_epi32(Layout::kExcess[p]);
    if (dense.zeros == nullptr) return excess;
    return _mm512_add_epi32(excess, group_zeros(dense, entry(p, g)));
  }

  // The sums of a short group with the factors of its corrections: of the panels, and of the tokens in the order of
  // the block's rows. Without sums: nothing to fold.
  struct ShortFold {
    const IntegerBlock* sums = nullptr;
    int64_t rows[kHalves];
    __m512i levels[kPanels];
    __m512 scales[kPanels];
    alignas(64) int32_t codes[kTileTokens];
  };

  ShortFold short_fold(const Tokens& t, int64_t g, const IntegerBlock& sums) const {
    ShortFold fold;
    fold.sums = &sums;
    for (int p = 0; p < kPanels; ++p) {
      fold.levels[p] = pair16(group_sums(dense, entry(p, g)), zeros_of(p, g));
      fold.scales[p] = group_scales(dense, entry(p, g));
    }
    for (int64_t h = 0; h < kHalves; ++h) {
      fold.rows[h] = h == 0 ? t.half : t.count - t.half;
      _mm512_store_si512(fold.codes + h * kHalfTokens, code_factors(t.first + h * t.half, fold.rows[h], g));
    }
    return fold;
  }

  // -zero and -sum(codes) of up to 16 tokens.
  __m512i code_factors(int64_t m, int64_t count, int64_t g) const {
    const __m512i none = _mm512_setzero_si512();
    const auto lanes = static_cast<__mmask16>((1u << count) - 1);
    const __m512i sums = _mm512_maskz_loadu_epi32(lanes, args.rows.sums + g * args.rows.sum_stride + m);
    const __m512i zeros = _mm512_maskz_loadu_epi32(lanes, args.rows.zeros + m);
    return pair16(_mm512_sub_epi32(none, zeros), _mm512_sub_epi32(none, sums));
  }

  // f += scale * corrected sums, for rows [begin, end) of the block.
  [[gnu::always_inline]] static void fold_rows(const ShortFold& fold, int64_t begin, int64_t end, FloatBlock& f) {
    if (fold.sums == nullptr) return;
    for (int64_t h = 0; h < kHalves; ++h) {
      const int64_t first = h * kHalfTokens, stop = smaller(end, first + fold.rows[h]);
      for (int64_t i = begin < first ? first : begin; i < stop; ++i) {
        const __m512i codes = _mm512_set1_epi32(fold.codes[i]);
        fold_vector<0>(fold, codes, i, f);
        fold_vector<1>(fold, codes, i, f);
      }
    }
  }

  template <int P>
  [[gnu::always_inline]] static void fold_vector(const ShortFold& fold, __m512i codes, int64_t i, FloatBlock& f) {
    const __m512i exact = _mm512_dpwssd_epi32(Layout::template sum<P>(*fold.sums, i), fold.levels[P], codes);
    f.at[P][i] = _mm512_fmadd_ps(fold.scales[P], _mm512_cvtepi32_ps(exact), f.at[P][i]);
  }

  // Leaves group g of these tokens to fold_rows.
  void put_off(const Tokens& t, int64_t g, const IntegerBlock& sums, FloatBlock& f) {
    const __m512i none = _mm512_setzero_si512(), low_bits = _mm512_set1_epi32((1 << kUpperBits) - 1);
    pending.sums = &sums;
    pending.f = &f;
    pending.first = g == 0;
    pending.last = g + 1 == dense.groups;
    pending.row = 0;
    pending.begin[0] = t.first;
    pending.end[0] = pending.begin[1] = t.first + t.half;
    pending.end[1] = t.first + t.count;
    pending.code_sums = args.rows.sums + g * args.rows.sum_stride;
    for (int p = 0; p < kPanels; ++p) {
      const __m512i levels = group_sums(dense, entry(p, g)), zeros = _mm512_sub_epi32(none, zeros_of(p, g));
      pending.upper[p] = pair16(zeros, _mm512_sub_epi32(none, _mm512_srai_epi32(levels, kUpperBits)));
      pending.lower[p] = pair16(zeros, _mm512_sub_epi32(none, _mm512_and_si512(levels, low_bits)));
      pending.scales[p] = group_scales(dense, entry(p, g));
      const int64_t n = (panel + p) * kLanes, left = smaller(dense.n, args.panel_end * kLanes) - n;
      pending.lanes[p] = left <= 0 ? 0 : static_cast<__mmask16>(left >= kLanes ? 0xFFFF : (1u << left) - 1);
      pending.bias[p] = args.bias == nullptr || left <= 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(args.bias + n);
    }
    pending.y = args.y + panel * kLanes;
  }

  // The next `count` rows.
  [[gnu::always_inline]] static void fold_rows(const LinearArgs& args, LongFold& fold, int64_t count) {
    for (int64_t end = smaller(fold.row + count, kTileTokens); fold.row < end; ++fold.row) {
      const int64_t half = fold.row / kHalfTokens, m = fold.begin[half] + fold.row % kHalfTokens;
      if (m >= fold.end[half]) continue;
      fold_row(args, fold, fold.row, m);
    }
  }

  [[gnu::always_inline]] static void fold_row(const LinearArgs& args, const LongFold& fold, int64_t row, int64_t m) {
    const int32_t sum = fold.code_sums[m], zero = args.rows.zeros[m] << 16;
    const __m512i upper = _mm512_set1_epi32(zero | sum >> kUpperBits);
    const __m512i lower = _mm512_set1_epi32(zero | (sum & ((1 << kUpperBits) - 1)));
    const __m512i raw[kPanels] = {Layout::template sum<0>(*fold.sums, row), Layout::template sum<1>(*fold.sums, row)};
    for (int p = 0; p < kPanels; ++p) {
      const __m512i off = _mm512_slli_epi32(_mm512_madd_epi16(fold.upper[p], upper), kUpperBits);
      const __m512i exact = _mm512_dpwssd_epi32(_mm512_add_epi32(raw[p], off), fold.lower[p], lower);
      const __m512 before = fold.first ? _mm512_setzero_ps() : fold.f->at[p][row];
      const __m512 f = _mm512_fmadd_ps(fold.scales[p], _mm512_cvtepi32_ps(exact), before);
      if (!fold.last) {
        fold.f->at[p][row] = f;
        continue;
      }
      float* const y = fold.y + m * args.y_stride + p * kLanes;
      const __m512 r = args.begun ? _mm512_maskz_loadu_ps(fold.lanes[p], y) : fold.bias[p];
      _mm512_mask_storeu_ps(y, fold.lanes[p], _mm512_fmadd_ps(_mm512_set1_ps(args.rows.scales[m]), f, r));
    }
  }

  // Output lines lie a row apart, where no prefetcher looks; asked for a few with every multiplication of the last
  // chunk, since many at once hold up the operands.
  [[gnu::always_inline]] void ask_for_outputs(const Tokens& t, Asked& asked) const {
    for (const int64_t end = smaller(asked.token + asked.share, t.count); asked.token < end; ++asked.token)
      for (int p = 0; p < kPanels; ++p)
        __builtin_prefetch(args.y + (t.first + asked.token) * args.y_stride + (panel + p) * kLanes, 1);
  }

  void finish(const Tokens& t, const FloatBlock& f) const {
    for (int64_t i = 0; i < t.count; ++i)
      for (int p = 0; p < kPanels; ++p)
        finish_vector(t.first + i, p, f.at[p][i < t.half ? i : kHalfTokens + i - t.half]);
  }

  // y = scale[m] * f + what the output starts from: y itself, or the bias.
  void finish_vector(int64_t m, int p, __m512 f) const {
    const int64_t n = (panel + p) * kLanes, left = smaller(dense.n, args.panel_end * kLanes) - n;
    if (left <= 0) return;
    const auto lanes = static_cast<__mmask16>(left >= kLanes ? 0xFFFF : (1u << left) - 1);
    float* y = args.y + m * args.y_stride + n;
    __m512 base = _mm512_setzero_ps();
    if (args.begun) {
      base = _mm512_maskz_loadu_ps(lanes, y);
    } else if (args.bias != nullptr) {
      base = _mm512_loadu_ps(args.bias + n);
    }
    _mm512_mask_storeu_ps(y, lanes, _mm512_fmadd_ps(_mm512_set1_ps(args.rows.scales[m]), f, base));
  }
};

template <class Layout>
void run(const LinearArgs& args) {
  if (args.m_begin >= args.m_end || args.panel_begin >= args.panel_end) return;
  Scratch scratch;
  LongFold pending{};
  pending.row = kTileTokens;  // nothing
  Chunk chunk = Strip<Layout>::chunk_at(args.dense, args.panel_begin, 0, scratch.low[0]);
  make_steps<Layout>(chunk, chunk.steps);
  for (int64_t m = args.m_begin; m < args.m_end; m += kBlockTokens)
    for (int64_t panel = args.panel_begin; panel < args.panel_end; panel += kPanels) {
      const int64_t next_panel = panel + kPanels < args.panel_end ? panel + kPanels : args.panel_begin;
      Strip<Layout>{args, panel, m, smaller(m + kBlockTokens, args.m_end), scratch, pending}.run(chunk, next_panel);
    }
  Strip<Layout>::fold_rows(args, pending, kTileTokens);
  release_tiles();
}

}  // namespace

void linear_w4_a8(const LinearArgs& args) { run<W4>(args); }
void linear_w8_a8(const LinearArgs& args) { run<W8>(args); }

}  // namespace nibble::amx
