// Float32 input times float weights (f32, f16, bf16) and times integer weights (4 and 8 bits).
//
// Every output is one chain of fused multiply-adds with K ascending, 24 chains to a tile.
// Registers of the 6x64 tile: 24 accumulators + 4 weights + 1 broadcast = 29 of 32; integer weights also need the
// raw codes of 4 panels, which are read again for every input (they are in the L1 cache), and 2 constants.
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

struct F32 {
  using Value = float;
  static __m512 load(const float* p) { return _mm512_loadu_ps(p); }
};

struct F16 {
  using Value = uint16_t;
  static __m512 load(const uint16_t* p) { return load_f16(p); }
};

struct Bf16 {
  using Value = uint16_t;
  static __m512 load(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
};

template <int M, int P>
[[gnu::always_inline]] inline void multiply(const float* x, int64_t stride, const __m512 (&w)[P],
                                            FloatTile<M, P>& acc) {
  for (int i = 0; i < M; ++i) {
    const __m512 value = _mm512_set1_ps(x[i * stride]);
    for (int p = 0; p < P; ++p) acc[i][p] = _mm512_fmadd_ps(value, w[p], acc[i][p]);
  }
}

template <class Weights>
struct Float {
  template <int M, int P>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t m, int64_t panel) {
    const int64_t k_end = args.dense.k, panel_values = k_end * kLanes;
    const auto* weights = static_cast<const typename Weights::Value*>(args.dense.codes) + panel * panel_values;
    const float* x = args.x + m * args.x_stride;
    FloatTile<M, P> tile, acc;
    begin_outputs<M, P>(args, m, panel, tile);
    load<M, P>(tile, acc);
    for (int64_t k = 0; k < k_end; ++k, weights += kLanes) {
      __m512 w[P];
      for (int p = 0; p < P; ++p) w[p] = Weights::load(weights + p * panel_values);
      multiply<M, P>(x + k, args.x_stride, w, acc);
    }
    store<M, P>(acc, tile);
    store_outputs<M, P>(args, m, panel, tile);
  }
};

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
      zeros[p] = _mm512_cvtepi32_ps(_mm512_loadu_si512(dense.zeros + at));
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
      const __m512 scale = _mm512_loadu_ps(dense.scales + ((panel + p) * dense.groups + g) * kLanes);
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

}  // namespace

void linear_f32(const LinearArgs& args) { run_tiles<Float<F32>>(args); }
void linear_f16(const LinearArgs& args) { run_tiles<Float<F16>>(args); }
void linear_bf16(const LinearArgs& args) { run_tiles<Float<Bf16>>(args); }
void linear_w4_f32(const LinearArgs& args) {
  if (args.dense.zeros == nullptr) return run_tiles<IntegerWeights<W4, false>, 2>(args);
  run_tiles<IntegerWeights<W4, true>, 2>(args);
}

void linear_w8_f32(const LinearArgs& args) {
  if (args.dense.zeros == nullptr) return run_tiles<IntegerWeights<W8, false>>(args);
  run_tiles<IntegerWeights<W8, true>>(args);
}

}  // namespace nibble::avx512
