// Float input times float weights: f32, f16 and bf16 weights with float32 input, bf16 weights with bf16 input.
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
  static constexpr bool kUnpacks = false, kPairs = false;
};

// Sixteen bf16, each in the low half of 32 bits.
inline __m512 widen(__m512i halves) { return _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16)); }

inline __m512i load_halves(const uint16_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

struct F16 {
  using Value = uint16_t;
  static constexpr bool kUnpacks = true, kPairs = false;
  static void unpack(const uint16_t* from, int64_t inputs, float* to) {
    for (int64_t i = 0; i < inputs * kLanes; i += kLanes) _mm512_store_ps(to + i, load_f16(from + i));
  }
};

struct Bf16 {
  using Value = uint16_t;
  static constexpr bool kUnpacks = true, kPairs = false;
  static void unpack(const uint16_t* from, int64_t inputs, float* to) {
    for (int64_t i = 0; i < inputs * kLanes; i += kLanes) _mm512_store_ps(to + i, widen(load_halves(from + i)));
  }
};

// bf16 weights and input, in pairs: both are unpacked with the second of a pair first, which is the order they are
// multiplied in.
struct Pairs {
  using Value = uint16_t;
  static constexpr bool kUnpacks = true, kPairs = true;
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

// Outputs that are computed together: while the weights stream by, their accumulators and a block of their input stay
// in the L2 cache.
constexpr int64_t kTokens = 96, kPanels = 8;

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
      for (int64_t p = 0; p < panels; ++p)
        Weights::unpack(from + p * panel_values, block.inputs, scratch + p * block.panel_stride);
    }
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
      each_tile(args.m_begin, args.m_end, [&](int64_t m, int64_t count) {
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
    const int64_t width = args.m_end - args.m_begin <= kBlockTokens ? kBlockPanels : kPanels;
    LinearArgs part = args;
    for (part.m_begin = args.m_begin; part.m_begin < args.m_end; part.m_begin += kTokens) {
      part.m_end = smaller(args.m_end, part.m_begin + kTokens);
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

}  // namespace

void linear_f32(const LinearArgs& args) { Float<F32>::run(args); }
void linear_f16(const LinearArgs& args) { Float<F16>::run(args); }
void linear_bf16(const LinearArgs& args) { Float<Bf16>::run(args); }
void linear_bf16_pairs(const LinearArgs& args) {
  const Flushing flushing;
  Float<Pairs>::run(args);
}

}  // namespace nibble::avx512
