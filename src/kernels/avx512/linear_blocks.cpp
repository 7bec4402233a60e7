// Block layouts times records: linear_b4, linear_b5, linear_b6, linear_b8.
//
// vpdpbusd multiplies unsigned bytes, levels + 128, with the signed codes of activations. Sums begin with the record's
// `start`, so that they end as the bits of the float 1.5 * 2^23 + sum: one multiply-subtract makes it s * sum, rounded
// once, and another multiply-add brings in the weights' scale. A block of 16 inputs is 4 products and 2 multiply-adds
// for each 16 outputs, where conversion and a product of scales would make it 4 and 3.
//
// A tile is M tokens x P panels with sums and outputs in registers: 6 x 2 has 12 sums, 12 outputs, 2 weights, 1
// broadcast, 2 scales. Up to 6 tokens read the weights as they are stored, more panels side by side the fewer tokens
// there are; above that, weights are made bytes once for all tokens, 512 inputs of two panels at a time, which stay in
// the nearest cache.
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

constexpr int64_t kTokens = 6;

template <int M, int P>
using SumTile = __m512i[M][P];

[[gnu::always_inline]] inline void dot4(__m512i& acc, __m512i w, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
}

inline __m512i broadcast4(const uint8_t* codes) {
  int32_t word;
  __builtin_memcpy(&word, codes, sizeof word);
  return _mm512_set1_epi32(word);
}
inline __m512 broadcast_float(const uint8_t* at) { return _mm512_castsi512_ps(broadcast4(at)); }

inline __m512i quarter_table(const uint8_t* levels) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)));
}

// The bytes, level + 128, of one step of a chunk.
struct Stored8 {
  static constexpr int64_t kChunk = 256;
  explicit Stored8(const PackedDense&) {}
  template <int S>
  [[gnu::always_inline]] __m512i step(const uint8_t* chunk) const {
    return _mm512_loadu_si512(chunk + 64 * S);
  }
};

template <int S>
[[gnu::always_inline]] inline __m512i nibbles(const uint8_t* chunk) {
  const __m512i both = _mm512_loadu_si512(chunk + 64 * (S / 2));
  return _mm512_and_si512(S % 2 == 0 ? both : _mm512_srli_epi16(both, 4), _mm512_set1_epi8(15));
}

struct Stored4 {
  static constexpr int64_t kChunk = 128;
  explicit Stored4(const PackedDense& dense) : table(quarter_table(dense.levels)) {}
  template <int S>
  [[gnu::always_inline]] __m512i step(const uint8_t* chunk) const {
    return _mm512_shuffle_epi8(table, nibbles<S>(chunk));
  }
  __m512i table;
};

// Bits 4 (and 5) of the codes of step S, where they belong in a byte; other bits are not cleared.
template <int kBits, int S>
[[gnu::always_inline]] inline __m512i upper(const uint8_t* chunk) {
  if constexpr (kBits == 6) {
    const __m512i bits = _mm512_loadu_si512(chunk + 128);
    return S == 0   ? _mm512_slli_epi16(bits, 4)
           : S == 1 ? _mm512_slli_epi16(bits, 2)
           : S == 2 ? bits
                    : _mm512_srli_epi16(bits, 2);
  } else {
    const __m512i bits = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(chunk + 128)));
    // The first eight lanes have theirs at bit S, the others at bit 4 + S.
    const __m512i left =
        _mm512_setr_epi32(4 - S, 4 - S, 4 - S, 4 - S, 4 - S, 4 - S, 4 - S, 4 - S, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i right = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, S, S, S, S, S, S, S, S);
    return _mm512_srlv_epi32(_mm512_sllv_epi32(bits, left), right);
  }
}

// Codes of 5 and 6 bits whose levels ascend: bits 4 and 5 join the low ones, and the least level is added.
template <int kBits>
struct Ascending {
  static constexpr int64_t kChunk = 32 * kBits;
  explicit Ascending(const PackedDense& dense) : least(_mm512_set1_epi8(static_cast<char>(dense.levels[0]))) {}
  template <int S>
  [[gnu::always_inline]] __m512i step(const uint8_t* chunk) const {
    // low | (upper & mask)
    const __m512i mask = _mm512_set1_epi8(kBits == 6 ? 0x30 : 0x10);
    const __m512i low = nibbles<S>(chunk), high = upper<kBits, S>(chunk);
    return _mm512_add_epi8(_mm512_ternarylogic_epi32(low, high, mask, 0xF8), least);
  }
  __m512i least;
};

// Others take their level from one of four tables of sixteen.
struct Table6 {
  static constexpr int64_t kChunk = 192;
  explicit Table6(const PackedDense& dense) {
    for (int i = 0; i < 4; ++i) tables[i] = quarter_table(dense.levels + 16 * i);
  }
  template <int S>
  [[gnu::always_inline]] __m512i step(const uint8_t* chunk) const {
    const __m512i low = nibbles<S>(chunk), bits = upper<6, S>(chunk);
    const __mmask64 fourth = _mm512_test_epi8_mask(bits, _mm512_set1_epi8(0x10));
    const __mmask64 fifth = _mm512_test_epi8_mask(bits, _mm512_set1_epi8(0x20));
    const __m512i lower = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(tables[0], low), fourth, tables[1], low);
    const __m512i higher = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(tables[2], low), fourth, tables[3], low);
    return _mm512_mask_blend_epi8(fifth, lower, higher);
  }
  __m512i tables[4];
};

inline __m512 scales_of(const PackedDense& dense, const uint8_t* bytes) {
  const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  if (dense.e4m3) return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(sixteen), 7));
  const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(sixteen), 23);
  return _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(1 << 22)));  // 2^-127 is subnormal
}

// Where a tile reads.
struct Operands {
  const uint8_t* weights;  // of the first panel
  int64_t weight_stride;   // from panel to panel
  const uint8_t* scales;
  int64_t scale_stride;
  const uint8_t* records;  // of the first token
  int64_t record_stride;   // from token to token
  int64_t blocks, block;   // how many, and inputs of each
};

// As stored: for few tokens.
template <class Stored>
struct Direct {
  const PackedDense& dense;
  Stored stored{dense};
  static constexpr int64_t kChunk = Stored::kChunk, kScales = kLanes;

  template <int S>
  [[gnu::always_inline]] __m512i step(const uint8_t* chunk) const {
    return stored.template step<S>(chunk);
  }
  [[gnu::always_inline]] __m512 scales(const uint8_t* at) const { return scales_of(dense, at); }
  [[gnu::always_inline]] static void fetch_block(int64_t) {}
  [[gnu::always_inline]] static void fetch(const uint8_t* chunk) {
    for (int64_t at = 0; at < kChunk; at += 64)
      _mm_prefetch(reinterpret_cast<const char*>(chunk + at + 4096), _MM_HINT_T1);
  }
};

// Bytes and floats that have been made of them. Meanwhile a share of the lines of the next blocks is asked for.
struct Made {
  static constexpr int64_t kChunk = 256, kScales = kLanes * 4;
  const uint8_t* next[2];    // of either panel
  int64_t next_block, half;  // bytes and lines of a block of one panel
  int64_t begin, end;        // lines of both panels' block

  template <int S>
  [[gnu::always_inline]] static __m512i step(const uint8_t* chunk) {
    return _mm512_load_si512(chunk + 64 * S);
  }
  [[gnu::always_inline]] static __m512 scales(const uint8_t* at) {
    return _mm512_load_ps(reinterpret_cast<const float*>(at));
  }
  [[gnu::always_inline]] static void fetch(const uint8_t*) {}
  [[gnu::always_inline]] void fetch_block(int64_t b) const {
    for (int64_t line = begin; line < end; ++line) {
      const uint8_t* const from = line < half ? next[0] + line * 64 : next[1] + (line - half) * 64;
      _mm_prefetch(reinterpret_cast<const char*>(from + b * next_block), _MM_HINT_T1);
    }
  }
};

// f = what the definition says, over the blocks of `in`. kChunks: of a block, or 0 where only `in` says.
template <int M, int P, int kChunks, class Source>
[[gnu::always_inline]] inline void multiply(const Source& source, const Operands& in, FloatTile<M, P>& outputs) {
  // Copies, which the compiler need not write back after every block.
  FloatTile<M, P> f;
  unrolled<M * P>([&](auto at) __attribute__((always_inline)) { f[at / P][at % P] = outputs[at / P][at % P]; });
  const int64_t stride = in.record_stride;
  // Three tokens are addressed from one pointer: more pointers than that do not fit the registers.
  const uint8_t* records[2] = {in.records, in.records + (M > 3 ? 3 * stride : 0)};
  const uint8_t* weights = in.weights;
  const uint8_t* scales = in.scales;
  for (int64_t b = 0; b < in.blocks; ++b) {
    SumTile<M, P> acc;
    source.fetch_block(b);
    const int64_t chunks = kChunks > 0 ? kChunks : in.block / kChunkInputs;
    const uint8_t* const tails[2] = {records[0] + chunks * kChunkInputs, records[1] + chunks * kChunkInputs};
    unrolled<M>([&](auto i) __attribute__((always_inline)) {
      const __m512i start = broadcast4(tails[i / 3] + i % 3 * stride);
      unrolled<P>([&](auto p) __attribute__((always_inline)) { acc[i][p] = start; });
    });
    const auto one_chunk = [&](int64_t c) __attribute__((always_inline)) {
      unrolled<P>([&](auto p) __attribute__((always_inline)) {
        source.fetch(weights + c * Source::kChunk + p * in.weight_stride);
      });
      unrolled<4>([&](auto s) __attribute__((always_inline)) {
        __m512i w[P];
        unrolled<P>([&](auto p) __attribute__((always_inline)) {
          w[p] = source.template step<s>(weights + c * Source::kChunk + p * in.weight_stride);
        });
        unrolled<M>([&](auto i) __attribute__((always_inline)) {
          const __m512i x = broadcast4(records[i / 3] + i % 3 * stride + c * kChunkInputs + 4 * s);
          unrolled<P>([&](auto p) __attribute__((always_inline)) { dot4(acc[i][p], w[p], x); });
        });
      });
    };
    if constexpr (kChunks > 0) {
      unrolled<kChunks>(one_chunk);
    } else {
      for (int64_t c = 0; c < chunks; ++c) one_chunk(c);
    }
    weights += chunks * Source::kChunk;
    __m512 of_weights[P];
    unrolled<P>([&](auto p)
                    __attribute__((always_inline)) { of_weights[p] = source.scales(scales + p * in.scale_stride); });
    unrolled<M>([&](auto i) __attribute__((always_inline)) {
      const uint8_t* const tail = tails[i / 3] + i % 3 * stride;
      const __m512 scale = broadcast_float(tail + 4), scaled_start = broadcast_float(tail + 8);
      unrolled<P>([&](auto p) __attribute__((always_inline)) {
        const __m512 value = _mm512_fmsub_ps(_mm512_castsi512_ps(acc[i][p]), scale, scaled_start);
        f[i][p] = _mm512_fmadd_ps(value, of_weights[p], f[i][p]);
      });
    });
    scales += Source::kScales;
    records[0] = tails[0] + sizeof(BlockTail);
    records[1] = tails[1] + sizeof(BlockTail);
  }
  unrolled<M * P>([&](auto at) __attribute__((always_inline)) { outputs[at / P][at % P] = f[at / P][at % P]; });
}

// y = scale[m] * factor * f + r
template <int M, int P>
[[gnu::always_inline]] inline void finish(const LinearArgs& args, int64_t m, int64_t panel, const FloatTile<M, P>& f) {
  FloatTile<M, P> r;
  begin_outputs<M, P>(args, m, panel, r);
  for (int i = 0; i < M; ++i) {
    const __m512 scale = _mm512_set1_ps(args.rows.scales[m + i] * args.dense.factor);
    for (int p = 0; p < P; ++p) r[i][p] = _mm512_fmadd_ps(scale, f[i][p], r[i][p]);
  }
  store_outputs<M, P>(args, m, panel, r);
}

// Up to kTokens tokens, all blocks at once.
template <class Stored>
struct Few {
  using Tile = void (*)(const LinearArgs&, int64_t panel);

  template <int M, int P>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t panel) {
    const PackedDense& dense = args.dense;
    const int64_t stride = dense.groups * dense.group_steps / kChunkSteps * Stored::kChunk;
    const int64_t scale_stride = dense.groups * kLanes;
    const Operands in{static_cast<const uint8_t*>(dense.codes) + panel * stride,
                      stride,
                      static_cast<const uint8_t*>(dense.scales) + panel * scale_stride,
                      scale_stride,
                      args.rows.codes + args.m_begin * args.rows.stride,
                      args.rows.stride,
                      dense.groups,
                      dense.group_size};
    const Direct<Stored> source{dense};
    FloatTile<M, P> f;
    unrolled<M * P>([&](auto at) __attribute__((always_inline)) { f[at / P][at % P] = _mm512_setzero_ps(); });
    multiply<M, P, 0>(source, in, f);
    finish<M, P>(args, args.m_begin, panel, f);
  }

  static void run(const LinearArgs& args) {
    static constexpr Tile kFour[] = {nullptr, tile<1, 4>, tile<2, 4>};
    static constexpr Tile kTwo[] = {nullptr, tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>, tile<5, 2>, tile<6, 2>};
    static constexpr Tile kOne[] = {nullptr, tile<1, 1>, tile<2, 1>, tile<3, 1>, tile<4, 1>, tile<5, 1>, tile<6, 1>};
    const int64_t m = args.m_end - args.m_begin, end = args.panel_end;
    int64_t panel = args.panel_begin;
    if (m <= 2)
      for (; panel + 4 <= end; panel += 4) kFour[m](args, panel);
    for (; panel + 2 <= end; panel += 2) kTwo[m](args, panel);
    for (; panel < end; ++panel) kOne[m](args, panel);
  }
};

// Many tokens. Outputs rest in memory between one range of inputs and the next.
constexpr int64_t kRangeInputs = 512, kRangeBlocks = kRangeInputs / kChunkInputs, kRestingTiles = 32;

struct Scratch {
  alignas(64) uint8_t weights[2][kRangeInputs * kLanes];
  alignas(64) float scales[2][kRangeBlocks * kLanes];
  FloatTile<kTokens, 2> outputs[kRestingTiles];
};

template <class Stored>
struct Many {
  // Blocks [begin, begin + blocks) of up to two panels from `panel` on.
  struct Range {
    const LinearArgs& args;
    Scratch& scratch;
    int64_t panel, begin, blocks;

    bool first() const { return begin == 0; }
    bool last() const { return begin + blocks == args.dense.groups; }
  };

  static int64_t block_bytes(const PackedDense& dense) { return dense.group_steps / kChunkSteps * Stored::kChunk; }

  static void make(const Range& range, int panels) {
    const PackedDense& dense = range.args.dense;
    const Stored stored(dense);
    const int64_t of_block = block_bytes(dense);
    for (int p = 0; p < panels; ++p) {
      const int64_t at = (range.panel + p) * dense.groups + range.begin;
      const uint8_t* chunk = static_cast<const uint8_t*>(dense.codes) + at * of_block;
      uint8_t* to = range.scratch.weights[p];
      for (const uint8_t* const end = chunk + range.blocks * of_block; chunk < end; chunk += Stored::kChunk) {
        unrolled<4>([&](auto s) __attribute__((always_inline)) {
          _mm512_store_si512(to + 64 * s, stored.template step<s>(chunk));
        });
        to += 256;
      }
      const uint8_t* const bytes = static_cast<const uint8_t*>(dense.scales) + at * kLanes;
      for (int64_t b = 0; b < range.blocks; ++b)
        _mm512_store_ps(range.scratch.scales[p] + b * kLanes, scales_of(dense, bytes + b * kLanes));
    }
  }

  // What is read after this range: the next one of these panels, or the first one of the next.
  static Made asking(const Range& range) {
    const PackedDense& dense = range.args.dense;
    const int64_t bytes = block_bytes(dense), panel = range.last() ? range.panel + 2 : range.panel;
    const uint8_t* const from = static_cast<const uint8_t*>(dense.codes) +
                                (panel * dense.groups + (range.last() ? 0 : range.begin + range.blocks)) * bytes;
    return {{from, from + dense.groups * bytes}, bytes, (bytes + 63) / 64, 0, 0};
  }

  template <int M, int P, int kChunks>
  [[gnu::noinline]] static void tile(const Range& range, const Made& made, int64_t m, FloatTile<kTokens, 2>& resting) {
    const LinearArgs& args = range.args;
    const int64_t block = args.dense.group_size;
    const Operands in{
        range.scratch.weights[0],
        sizeof range.scratch.weights[0],
        reinterpret_cast<const uint8_t*>(range.scratch.scales[0]),
        sizeof range.scratch.scales[0],
        args.rows.codes + m * args.rows.stride + range.begin * (block + static_cast<int64_t>(sizeof(BlockTail))),
        args.rows.stride,
        range.blocks,
        block};
    FloatTile<M, P> f;
    const bool first = range.first();
    unrolled<M * P>([&](auto at) __attribute__((always_inline)) {
      f[at / P][at % P] = first ? _mm512_setzero_ps() : _mm512_load_ps(&resting[at / P][at % P]);
    });
    if (range.last())
      for (int i = 0; i < M; ++i)
        for (int p = 0; p < P; ++p)
          __builtin_prefetch(args.y + (m + i) * args.y_stride + (range.panel + p) * kLanes, 1);
    multiply<M, P, kChunks>(made, in, f);
    if (range.last()) return finish<M, P>(args, m, range.panel, f);
    unrolled<M * P>([&](auto at) __attribute__((always_inline)) {
      _mm512_store_ps(&resting[at / P][at % P], f[at / P][at % P]);
    });
  }

  using Tile = void (*)(const Range&, const Made&, int64_t, FloatTile<kTokens, 2>&);

  template <int P, int kChunks>
  static void run_tiles_of(const Range& range, int64_t first, int64_t end, int64_t all) {
    static constexpr Tile kTiles[] = {
        nullptr, nullptr, nullptr, tile<3, P, kChunks>, tile<4, P, kChunks>, tile<5, P, kChunks>, tile<6, P, kChunks>};
    const LinearArgs& args = range.args;
    const int64_t count = args.m_end - args.m_begin;
    Made made = asking(range);
    for (int64_t at = first; at < end; ++at) {
      const int64_t from = count * at / all, to = count * (at + 1) / all;
      made.begin = 2 * made.half * (at - first) / (end - first);
      made.end = 2 * made.half * (at + 1 - first) / (end - first);
      kTiles[to - from](range, made, args.m_begin + from, range.scratch.outputs[at - first]);
    }
  }

  template <int P>
  static void run_tiles(const Range& range, int64_t first, int64_t end, int64_t all) {
    switch (range.args.dense.group_size / kChunkInputs) {
      case 1: return run_tiles_of<P, 1>(range, first, end, all);
      case 2: return run_tiles_of<P, 2>(range, first, end, all);
      default: return run_tiles_of<P, 0>(range, first, end, all);
    }
  }

  static void run(const LinearArgs& args) {
    Scratch scratch;
    const int64_t tiles = (args.m_end - args.m_begin + kTokens - 1) / kTokens;
    const int64_t step = kRangeInputs / args.dense.group_size;
    for (int64_t first = 0; first < tiles; first += kRestingTiles)
      for (int64_t panel = args.panel_begin; panel < args.panel_end; panel += 2)
        for (int64_t begin = 0; begin < args.dense.groups; begin += step) {
          const Range range{args, scratch, panel, begin, smaller(step, args.dense.groups - begin)};
          const int64_t end = smaller(first + kRestingTiles, tiles);
          if (panel + 1 < args.panel_end) {
            make(range, 2);
            run_tiles<2>(range, first, end, tiles);
          } else {
            make(range, 1);
            run_tiles<1>(range, first, end, tiles);
          }
        }
  }
};

template <class Stored>
void run(LinearArgs args) {
  if (args.m_end - args.m_begin > kTokens && args.dense.groups > 0) return Many<Stored>::run(args);
  for (const int64_t end = args.m_end; args.m_begin < end; args.m_begin = args.m_end) {
    args.m_end = smaller(args.m_begin + kTokens, end);
    Few<Stored>::run(args);
  }
}

}  // namespace

void linear_b4(const LinearArgs& args) { run<Stored4>(args); }
void linear_b5(const LinearArgs& args) { run<Ascending<5>>(args); }
void linear_b6(const LinearArgs& args) { args.dense.ascending ? run<Ascending<6>>(args) : run<Table6>(args); }
void linear_b8(const LinearArgs& args) { run<Stored8>(args); }

}  // namespace nibble::avx512
