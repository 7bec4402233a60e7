// Integer weights (4 and 8 bits) times float32 input.
//
// Every group of every output is one chain of fused multiply-adds with K ascending. Many tokens: a strip's levels are
// unpacked to float32 once per block and multiplied with all tiles of tokens (blocks.h). Few tokens: they are unpacked
// on the way; registers of that 6x64 tile: 24 accumulators + 4 weights + 1 broadcast = 29 of 32, the raw codes of 4
// panels are read again for every input (they are in the L1 cache).
#include "kernels/avx512/blocks.h"
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

template <int M, int P>
[[gnu::always_inline]] inline void multiply(const float* x, int64_t stride, const __m512 (&w)[P],
                                            FloatTile<M, P>& acc) {
  for (int i = 0; i < M; ++i) {
    const __m512 value = _mm512_set1_ps(x[i * stride]);
    for (int p = 0; p < P; ++p) acc[i][p] = _mm512_fmadd_ps(value, w[p], acc[i][p]);
  }
}

// The level of input j of a step, exact in float32, for panel p of a tile, from the lane's 32 bits.
struct W4 {
  static constexpr int64_t kPanelsInStep = 2;
  static __m512 level(__m512i raw, int64_t j, int p) {
    const __m512 first = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m512 second = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    const auto shift = static_cast<int32_t>(j * 8 + p % 2 * 4);
    const __m512i index = _mm512_srlv_epi32(raw, _mm512_set1_epi32(shift));  // the low four bits count
    return _mm512_permutexvar_ps(index, p % 2 == 0 ? first : second);
  }
};

struct W8 {
  static constexpr int64_t kPanelsInStep = 1;
  static __m512 level(__m512i raw, int64_t j, int) {
    const auto shift = static_cast<int32_t>(24 - j * 8);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_sllv_epi32(raw, _mm512_set1_epi32(shift)), 24));
  }
};

// kZeros: the layer has zeros to subtract.
template <class Weights, bool kZeros>
struct IntegerWeights {
  template <int M, int P>
  struct Step {
    const uint8_t* weights;
    int64_t stride;  // of the weights, from panel to panel (8 bits) or from pair to pair (4 bits)
    const float* x;
    int64_t x_stride;
    __m512 zeros[P];

    [[gnu::always_inline]] void multiply_input(int64_t j, FloatTile<M, P>& acc) const {
      __m512 w[P];
      for (int p = 0; p < P; ++p) {
        const __m512i raw = _mm512_loadu_si512(weights + p / Weights::kPanelsInStep * stride);
        w[p] = Weights::level(raw, j, p);
        if constexpr (kZeros) w[p] = _mm512_sub_ps(w[p], zeros[p]);
      }
      multiply<M, P>(x + j, x_stride, w, acc);
    }
  };

  template <int M, int P>
  [[gnu::always_inline]] static void load_zeros(const PackedDense& dense, int64_t panel, int64_t g,
                                                __m512 (&zeros)[P]) {
    for (int p = 0; p < P; ++p) {
      const int64_t at = ((panel + p) * dense.groups + g) * kLanes;
      zeros[p] = _mm512_cvtepi32_ps(group_zeros(dense, at));
    }
  }

  template <int M, int P>
  [[gnu::noinline]] static void add_group(const LinearArgs& args, int64_t m, int64_t panel, int64_t g,
                                          FloatTile<M, P>& f) {
    const PackedDense& dense = args.dense;
    const int64_t group_bytes = dense.group_steps * 64;
    Step<M, P> step;
    step.stride = dense.groups * group_bytes;
    step.weights =
        static_cast<const uint8_t*>(dense.codes) + panel / Weights::kPanelsInStep * step.stride + g * group_bytes;
    step.x = args.x + m * args.x_stride + g * dense.group_size;
    step.x_stride = args.x_stride;
    if constexpr (kZeros) load_zeros<M, P>(dense, panel, g, step.zeros);
    int64_t left = smaller(dense.group_size, dense.k - g * dense.group_size);
    FloatTile<M, P> acc{};
    for (; left >= 4; left -= 4) {
      for (int64_t j = 0; j < 4; ++j) step.multiply_input(j, acc);
      step.weights += 64;
      step.x += 4;
    }
    for (int64_t j = 0; j < left; ++j) step.multiply_input(j, acc);
    for (int p = 0; p < P; ++p) {
      const __m512 scale = group_scales(dense, ((panel + p) * dense.groups + g) * kLanes);
      for (int i = 0; i < M; ++i) f[i][p] = _mm512_fmadd_ps(scale, acc[i][p], f[i][p]);
    }
  }

  template <int M, int P>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t m, int64_t panel) {
    FloatTile<M, P> f{}, r;
    for (int64_t g = 0; g < args.dense.groups; ++g) add_group<M, P>(args, m, panel, g, f);
    begin_outputs<M, P>(args, m, panel, r);
    for (int i = 0; i < M; ++i)
      for (int p = 0; p < P; ++p) r[i][p] = _mm512_add_ps(r[i][p], f[i][p]);
    store_outputs<M, P>(args, m, panel, r);
  }
};

// Two panels at a time, from an even one on, and up to kTokens tokens.
template <class Weights, bool kZeros>
struct Blocked {
  static constexpr int64_t kTokens = 96;

  struct Work {
    const LinearArgs& args;
    Block block;
    int64_t m, panel, g;
    float *sums, *outputs;  // of the tile, between blocks: of this group, and f
    bool group_begins, group_ends;
  };

  template <int M, int P>
  [[gnu::noinline]] static void tile(const Work& work) {
    const PackedDense& dense = work.args.dense;
    auto& acc = *reinterpret_cast<FloatTile<M, P>*>(work.sums);
    auto& f = *reinterpret_cast<FloatTile<M, P>*>(work.outputs);
    if (work.group_begins) clear<M, P>(acc);
    multiply_block<M, P>(work.block, acc);
    if (!work.group_ends) return;
    if (work.g == 0) clear<M, P>(f);
    for (int p = 0; p < P; ++p) {
      const __m512 scale = group_scales(dense, ((work.panel + p) * dense.groups + work.g) * kLanes);
      for (int i = 0; i < M; ++i) f[i][p] = _mm512_fmadd_ps(scale, acc[i][p], f[i][p]);
    }
    if (work.g + 1 == dense.groups) finish<M, P>(work, f);
  }

  template <int M, int P>
  static void clear(FloatTile<M, P>& tile) {
    for (int i = 0; i < M; ++i)
      for (int p = 0; p < P; ++p) tile[i][p] = _mm512_setzero_ps();
  }

  template <int M, int P>
  [[gnu::always_inline]] static void finish(const Work& work, const FloatTile<M, P>& f) {
    FloatTile<M, P> r;
    begin_outputs<M, P>(work.args, work.m, work.panel, r);
    for (int i = 0; i < M; ++i)
      for (int p = 0; p < P; ++p) r[i][p] = _mm512_add_ps(r[i][p], f[i][p]);
    store_outputs<M, P>(work.args, work.m, work.panel, r);
  }

  using Tile = void (*)(const Work&);
  static constexpr Tile kTiles[] = {nullptr,     tile<1, 2>,  tile<2, 2>, tile<3, 2>, tile<4, 2>,
                                    tile<5, 2>,  tile<6, 2>,  tile<7, 2>, tile<8, 2>, tile<9, 2>,
                                    tile<10, 2>, tile<11, 2>, tile<12, 2>};

  // Levels less zeros of whole steps from input k of the group on, as [panel][kBlockInputs][16].
  static void unpack(const Work& work, int64_t k, float* to) {
    const PackedDense& dense = work.args.dense;
    unrolled<kBlockPanels>([&](auto p) {
      const int64_t panel = work.panel + p;
      const int64_t step = (panel / Weights::kPanelsInStep * dense.groups + work.g) * dense.group_steps + k / 4;
      const uint8_t* from = static_cast<const uint8_t*>(dense.codes) + step * 64;
      __m512 zeros = _mm512_setzero_ps();
      if constexpr (kZeros) zeros = _mm512_cvtepi32_ps(group_zeros(dense, (panel * dense.groups + work.g) * kLanes));
      float* out = to + p * kBlockInputs * kLanes;
      for (int64_t i = 0; i < work.block.inputs; i += 4, from += 64) {
        const __m512i raw = _mm512_loadu_si512(from);
        unrolled<4>([&](auto j) {
          __m512 level = Weights::level(raw, j, p);
          if constexpr (kZeros) level = _mm512_sub_ps(level, zeros);
          _mm512_store_ps(out + (i + j) * kLanes, level);
        });
      }
    });
  }

  static void run_block(Work& work, int64_t k, int64_t count) {
    alignas(64) float scratch[kBlockPanels * kBlockInputs * kLanes];
    const LinearArgs& args = work.args;
    work.block = {scratch, kBlockInputs * kLanes, nullptr, args.x_stride, smaller(kBlockInputs, count - k)};
    work.group_begins = k == 0;
    work.group_ends = k + work.block.inputs == count;
    unpack(work, k, scratch);
    float *const sums = work.sums, *const outputs = work.outputs;
    each_tile(args.m_begin, args.m_end, [&](int64_t m, int64_t tokens) {
      work.m = m;
      work.block.x = args.x + m * args.x_stride + work.g * args.dense.group_size + k;
      kTiles[tokens](work);
      work.sums += kTileValues;
      work.outputs += kTileValues;
    });
    work.sums = sums;
    work.outputs = outputs;
  }

  static void run_strip(const LinearArgs& args, int64_t panel) {
    alignas(64) float sums[kTokens / kBlockTokens * kTileValues], outputs[kTokens / kBlockTokens * kTileValues];
    const PackedDense& dense = args.dense;
    Work work{args, {}, 0, panel, 0, sums, outputs, false, false};
    for (work.g = 0; work.g < dense.groups; ++work.g) {
      const int64_t count = smaller(dense.group_size, dense.k - work.g * dense.group_size);
      int64_t k = 0;
      do {  // once even without inputs
        run_block(work, k, count);
        k += kBlockInputs;
      } while (k < count);
    }
  }

  static void run(const LinearArgs& args) {
    LinearArgs part = args;
    for (part.m_begin = args.m_begin; part.m_begin < args.m_end; part.m_begin += kTokens) {
      part.m_end = smaller(args.m_end, part.m_begin + kTokens);
      for (int64_t panel = args.panel_begin; panel < args.panel_end; panel += kBlockPanels) run_strip(part, panel);
    }
  }
};

template <class Weights, bool kZeros>
void run(const LinearArgs& args) {
  if (args.m_end - args.m_begin > kTileM) return Blocked<Weights, kZeros>::run(args);
  run_tiles<IntegerWeights<Weights, kZeros>, Weights::kPanelsInStep>(args);
}

}  // namespace

void linear_w4_f32(const LinearArgs& args) {
  if (args.dense.zeros == nullptr) return run<W4, false>(args);
  run<W4, true>(args);
}

void linear_w8_f32(const LinearArgs& args) {
  if (args.dense.zeros == nullptr) return run<W8, false>(args);
  run<W8, true>(args);
}

}  // namespace nibble::avx512
