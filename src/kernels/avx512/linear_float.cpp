// Float input times float weights: f32, f16 and bf16 weights with float32 input, bf16 weights with bf16 input. Coded
// weights are opened to bf16 block by block.
//
// Every output is one chain of fused multiply-adds with K ascending, computed in blocks (blocks.h).
#include "kernels/avx512/blocks.h"
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

// A kind of weights: whether and how a block of one panel becomes float32, and the input with it.

struct F32 {
  using Value = float;
  static constexpr bool kUnpacks = false, kPairs = false, kCoded = false;
};

// Sixteen bf16, each in the low half of 32 bits.
inline __m512 widen(__m512i halves) { return _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16)); }

inline __m512i load_halves(const uint16_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

struct F16 {
  using Value = uint16_t;
  static constexpr bool kUnpacks = true, kPairs = false, kCoded = false;
  static __m512 load(const uint16_t* from) { return load_f16(from); }
  static void unpack(const uint16_t* from, int64_t inputs, float* to) {
    for (int64_t i = 0; i < inputs * kLanes; i += kLanes) _mm512_store_ps(to + i, load(from + i));
  }
};

struct Bf16 {
  using Value = uint16_t;
  static constexpr bool kUnpacks = true, kPairs = false, kCoded = false;
  static __m512 load(const uint16_t* from) { return widen(load_halves(from)); }
  static void unpack(const uint16_t* from, int64_t inputs, float* to) {
    for (int64_t i = 0; i < inputs * kLanes; i += kLanes) _mm512_store_ps(to + i, load(from + i));
  }
};

// bf16 weights and input, in pairs: both are unpacked with the second of a pair first, which is the order they are
// multiplied in.
struct Pairs {
  using Value = uint16_t;
  static constexpr bool kUnpacks = true, kPairs = true, kCoded = false;
  static constexpr int64_t kInputStride = kBlockInputs + kLanes;

  static void unpack(const uint16_t* from, int64_t inputs, float* to) {
    for (int64_t i = 0; i < inputs * kLanes; i += 2 * kLanes) {
      const __m512i pairs = _mm512_loadu_si512(from + i);
      _mm512_store_ps(to + i, _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536))));
      _mm512_store_ps(to + i + kLanes, widen(pairs));
    }
  }

  static __m512 swapped(__m512i halves) { return widen(_mm512_shuffle_epi32(halves, _MM_PERM_CDAB)); }

  // Whole pairs of `count` tokens; the last vector of a row may reach beyond them.
  static void unpack_input(const uint16_t* x, int64_t stride, int64_t count, int64_t inputs, float* to) {
    for (; count > 0; --count, x += stride, to += kInputStride) {
      int64_t i = 0;
      for (; i + kLanes <= inputs; i += kLanes) _mm512_store_ps(to + i, swapped(load_halves(x + i)));
      if (i == inputs) continue;
      const auto left = static_cast<__mmask16>((1u << (inputs - i)) - 1);
      _mm512_store_ps(to + i, swapped(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(left, x + i))));
    }
  }
};

// Codes, which are opened to pairs and then unpacked.
struct Coded {
  using Value = uint16_t;
  static constexpr bool kUnpacks = true, kPairs = false, kCoded = true;
  static void unpack(const uint16_t* from, int64_t inputs, float* to) {
    for (int64_t i = 0; i < inputs * kLanes; i += 2 * kLanes) {
      const __m512i pairs = _mm512_loadu_si512(from + i);
      _mm512_store_ps(to + i, widen(pairs));
      _mm512_store_ps(to + i + kLanes, _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536))));
    }
  }
};

struct CodedPairs : Pairs {
  static constexpr bool kCoded = true;
};

// While one lives, subnormal numbers are zeros, as operands and as results.
class Flushing {
 public:
  Flushing() : before_(_mm_getcsr()) { _mm_setcsr(before_ | _MM_FLUSH_ZERO_ON | 0x0040 /* denormals are zeros */); }
  ~Flushing() { _mm_setcsr(before_); }
  Flushing(const Flushing&) = delete;
  Flushing& operator=(const Flushing&) = delete;

 private:
  unsigned before_;
};

// One tile of tokens: weights of 16 bits are read once, from memory, and become float32 on the way. The fewer tokens,
// the more panels side by side, so that enough independent sums hide the latency of their additions.
template <class Weights>
struct Few {
  template <int M, int P>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t panel) {
    const int64_t k = args.dense.k, panel_values = k * kLanes, stride = args.x_stride;
    const uint16_t* weights = static_cast<const uint16_t*>(args.dense.codes) + panel * panel_values;
    const float* first = args.x + args.m_begin * stride;
    const float* x[4] = {first, first + 3 * stride, first + 6 * stride, first + 9 * stride};
    FloatTile<M, P> y, acc;
    begin_outputs<M, P>(args, args.m_begin, panel, y);
    unrolled<M * P>([&](auto at) __attribute__((always_inline)) { acc[at / P][at % P] = y[at / P][at % P]; });
    const auto multiply_input = [&]() __attribute__((always_inline)) {
      __m512 w[P];
      for (int p = 0; p < P; ++p) w[p] = Weights::load(weights + p * panel_values);
      unrolled<M>([&](auto i) __attribute__((always_inline)) {
        const __m512 value = _mm512_set1_ps(x[i / 3][i % 3 * stride]);
        unrolled<P>([&](auto p) __attribute__((always_inline)) { multiply_add(acc[i][p], value, w[p]); });
      });
      unrolled<(M + 2) / 3>([&](auto i) __attribute__((always_inline)) { ++x[i]; });
      weights += kLanes;
    };
    for (int64_t line = 0; line < k / 2; ++line) {
      constexpr Ahead kAhead = P > 2 ? Ahead::one_kib : Ahead::pages;
      for (int p = 0; p < P; ++p) ask_ahead<kAhead>(weights + p * panel_values, kSixteenPages);
      multiply_input();
      multiply_input();
    }
    if (k % 2 == 1) multiply_input();
    unrolled<M * P>([&](auto at) __attribute__((always_inline)) { y[at / P][at % P] = acc[at / P][at % P]; });
    store_outputs<M, P>(args, args.m_begin, panel, y);
  }
};

// Outputs that are computed together: their accumulators (264 KiB) and a block of their tokens' input (200 KiB) stay in
// the L2 cache while the weights of the block stream by, and each tile asks for a share of what comes next.
constexpr int64_t kTokens = 264, kPanels = 16, kLine = 64;

// Asks the L2 cache for `count` lines. In assembly: the compiler drops functions that only prefetch.
[[gnu::always_inline]] inline void ask_for(const void* from, int64_t count) {
  for (const char* line = static_cast<const char*>(from); count > 0; --count, line += kLine)
    asm volatile("prefetcht1 (%0)" : : "r"(line));
}

template <class Weights>
struct Float {
  using Value = typename Weights::Value;

  // One tile: where it is, and its accumulators between blocks.
  struct Work {
    const LinearArgs& args;
    Block block;
    int64_t m, panel;
    float* rest;
    bool first, last;  // block
  };

  template <int M, int P>
  [[gnu::noinline]] static void tile(const Work& work) {
    auto& r = *reinterpret_cast<FloatTile<M, P>*>(work.rest);
    if (work.first) begin_outputs<M, P>(work.args, work.m, work.panel, r);
    multiply_block<M, P>(work.block, r);
    if (work.last) store_outputs<M, P>(work.args, work.m, work.panel, r);
  }

  using Tile = void (*)(const Work&);
  template <int P>
  static constexpr Tile kTiles[] = {nullptr,     tile<1, P>,  tile<2, P>, tile<3, P>, tile<4, P>,
                                    tile<5, P>,  tile<6, P>,  tile<7, P>, tile<8, P>, tile<9, P>,
                                    tile<10, P>, tile<11, P>, tile<12, P>};

  static int64_t inputs(const PackedDense& dense) { return Weights::kPairs ? (dense.k + 1) / 2 * 2 : dense.k; }
  static int64_t panel_bytes(const PackedDense& dense) {
    return Weights::kCoded ? dense.panel_bytes : inputs(dense) * kLanes * static_cast<int64_t>(sizeof(Value));
  }

  // Points the block to the weights of `panels` panels; `scratch` is [panel][kBlockInputs][16].
  static void load_weights(const Work& work, int64_t panels, int64_t k, float* scratch, Block& block) {
    const int64_t panel_values = inputs(work.args.dense) * kLanes;
    const Value* from = static_cast<const Value*>(work.args.dense.codes) + work.panel * panel_values + k * kLanes;
    if constexpr (!Weights::kUnpacks) {
      block.weights = from;
      block.panel_stride = panel_values;
    } else {
      block.weights = scratch;
      block.panel_stride = kBlockInputs * kLanes;
      if constexpr (Weights::kCoded) {
        alignas(64) uint16_t words[kBlockInputs * kLanes];
        for (int64_t p = 0; p < panels; ++p) {
          work.args.open(work.args.dense, work.panel + p, k, k + block.inputs, words);
          Weights::unpack(words, block.inputs, scratch + p * block.panel_stride);
        }
        return;
      }
      for (int64_t p = 0; p < panels; ++p)
        Weights::unpack(from + p * panel_values, block.inputs, scratch + p * block.panel_stride);
    }
  }

  // What the tiles of a strip ask for, one share each: the weights of the strip that follows, and of the tile's own
  // tokens a part of the next block.
  struct Ahead {
    const char* weights;  // of the first panel
    int64_t panel_bytes;
    int64_t lines, share;             // of a panel; for one tile
    int64_t inputs, x_line, x_lines;  // where the next block begins, negative: nowhere; lines of it to ask for
    int64_t asked = 0;

    [[gnu::always_inline]] void ask(const LinearArgs& args, int64_t m, int64_t count) {
      const char* at = weights + asked * kLine;
      const int64_t now = smaller(share, lines - asked);
      ask_for(at, now);
      ask_for(at + panel_bytes, now);
      asked += now;
      if (inputs < 0) return;
      for (int64_t i = m; i < m + count; ++i) {
        const void* row = Weights::kPairs ? static_cast<const void*>(args.halves + i * args.x_stride + inputs)
                                          : args.x + i * args.x_stride + inputs;
        ask_for(static_cast<const char*>(row) + x_line * kLine, x_lines);
      }
    }
  };

  // For the strip at `panel` and the block that begins at k. After the last block the next panels follow.
  static Ahead ahead_of(const LinearArgs& args, int64_t panel, int64_t k) {
    const int64_t all = inputs(args.dense), tiles = (args.m_end - args.m_begin + kBlockTokens - 1) / kBlockTokens;
    const int64_t strips = (args.panel_end - args.panel_begin + kBlockPanels - 1) / kBlockPanels;
    const int64_t strip = (panel - args.panel_begin) / kBlockPanels, next = k + kBlockInputs;
    const bool in_block = panel + kBlockPanels < args.panel_end, more = next < all;
    Ahead ahead{};
    const int64_t follows = in_block ? panel + kBlockPanels : more ? args.panel_begin : args.panel_end;
    const int64_t from = in_block ? k : more ? next : 0;
    ahead.panel_bytes = panel_bytes(args.dense);
    const int64_t bytes = all > 0 ? ahead.panel_bytes / all : 0;  // of an input; codes: about
    ahead.weights = static_cast<const char*>(args.dense.codes) + follows * ahead.panel_bytes + from * bytes;
    ahead.lines = kBlockInputs * bytes / kLine;
    // All lines at once hold up what they should help, where the weights are multiplied as they lie.
    ahead.share = Weights::kUnpacks || tiles > 3 ? (ahead.lines + tiles - 1) / tiles : 0;
    ahead.inputs = more ? next : -1;
    const int64_t lines = kBlockInputs * (Weights::kPairs ? 2 : 4) / kLine + 1;
    ahead.x_line = lines * strip / strips;
    ahead.x_lines = lines * (strip + 1) / strips - ahead.x_line;
    return ahead;
  }

  // Inputs from k on, for all tokens and panels of `args`: at most kTokens and kPanels.
  static void add_block(const LinearArgs& args, int64_t k, float* rest) {
    alignas(64) float scratch[Weights::kUnpacks ? kBlockPanels * kBlockInputs * kLanes : 1];
    alignas(64) float x[Weights::kPairs ? kBlockTokens * Pairs::kInputStride : 1];
    Work work{args, {}, 0, args.panel_begin, rest, k == 0, k + kBlockInputs >= args.dense.k};
    work.block.inputs = smaller(kBlockInputs, inputs(args.dense) - k);
    for (; work.panel < args.panel_end; work.panel += kBlockPanels) {
      const int64_t panels = smaller(kBlockPanels, args.panel_end - work.panel);
      load_weights(work, panels, k, scratch, work.block);
      Ahead ahead = ahead_of(args, work.panel, k);
      each_tile(args.m_begin, args.m_end, [&](int64_t m, int64_t count) {
        ahead.ask(args, m, count);
        work.m = m;
        if constexpr (Weights::kPairs) {
          Pairs::unpack_input(args.halves + m * args.x_stride + k, args.x_stride, count, work.block.inputs, x);
          work.block.x = x;
          work.block.x_stride = Pairs::kInputStride;
        } else {
          work.block.x = args.x + m * args.x_stride + k;
          work.block.x_stride = args.x_stride;
        }
        (panels == 2 ? kTiles<2> : kTiles<1>)[count](work);
        work.rest += kTileValues;
      });
    }
  }

  static void run(const LinearArgs& args) {
    alignas(64) float rest[kTokens / kBlockTokens * kPanels / kBlockPanels * kTileValues];
    // Few tokens: the weights are read once, in order.
    const int64_t count = args.m_end - args.m_begin, width = count <= kBlockTokens ? kBlockPanels : kPanels;
    const int64_t cuts = (count + kTokens - 1) / kTokens;
    LinearArgs part = args;
    for (int64_t cut = 0; cut < cuts; ++cut) {  // as equal as can be
      part.m_begin = args.m_begin + count * cut / cuts;
      part.m_end = args.m_begin + count * (cut + 1) / cuts;
      for (part.panel_begin = args.panel_begin; part.panel_begin < args.panel_end; part.panel_begin += width) {
        part.panel_end = smaller(args.panel_end, part.panel_begin + width);
        int64_t k = 0;
        do {  // once even without inputs: y must become r
          add_block(part, k, rest);
          k += kBlockInputs;
        } while (k < args.dense.k);
      }
    }
  }
};

// Tiles of P panels as long as there are that many, for all tokens, kFewest to kMost; the next panel.
template <class Weights, int P, int kFewest, int kMost>
int64_t run_strips(const LinearArgs& args, int64_t panel) {
  if constexpr (kMost > kFewest) {
    if (args.m_end - args.m_begin < kMost) return run_strips<Weights, P, kFewest, kMost - 1>(args, panel);
  }
  for (; panel + P <= args.panel_end; panel += P) Few<Weights>::template tile<kMost, P>(args, panel);
  return panel;
}

template <class Weights>
void run(const LinearArgs& args) {
  const int64_t tokens = args.m_end - args.m_begin;
  if (tokens > kBlockTokens) return Float<Weights>::run(args);
  if (tokens <= 0) return;
  int64_t panel = args.panel_begin;
  if (tokens <= 3) panel = run_strips<Weights, 8, 1, 3>(args, panel);
  if (tokens <= 6) panel = run_strips<Weights, 4, 1, 6>(args, panel);
  if (tokens > 6) panel = run_strips<Weights, 2, 7, kBlockTokens>(args, panel);
  run_strips<Weights, 1, 1, kBlockTokens>(args, panel);
}

}  // namespace

void linear_f32(const LinearArgs& args) { Float<F32>::run(args); }
void linear_f16(const LinearArgs& args) { run<F16>(args); }
void linear_bf16(const LinearArgs& args) { run<Bf16>(args); }
void linear_bf16_pairs(const LinearArgs& args) {
  const Flushing flushing;
  Float<Pairs>::run(args);
}
void linear_coded_blocks(const LinearArgs& args) { Float<Coded>::run(args); }
void linear_coded_pairs(const LinearArgs& args) {
  const Flushing flushing;
  Float<CodedPairs>::run(args);
}

}  // namespace nibble::avx512
