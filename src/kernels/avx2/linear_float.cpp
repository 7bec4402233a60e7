// Float32 input times float weights (f32, f16, bf16) and times integer weights (4 and 8 bits).
//
// Every output is one chain of fused multiply-adds with K ascending.
// Registers: the 6x16 tile of float weights 12 accumulators + 2 weights + 1 broadcast = 15 of 16; the 4x16 tile of
// integer weights 8 + 2 raw + 2 weights + 1 broadcast + 2 zeros = 15.
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"

namespace nibble::avx2 {
namespace {

struct F32 {
  using Value = float;
  static __m256 load(const float* p) { return _mm256_loadu_ps(p); }
};

struct F16 {
  using Value = uint16_t;
  static __m256 load(const uint16_t* p) { return load_f16(p); }
};

struct Bf16 {
  using Value = uint16_t;
  static __m256 load(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
};

template <int M>
[[gnu::always_inline]] inline void multiply(const float* x, int64_t stride, const __m256 (&w)[kHalves],
                                            FloatTile<M>& acc) {
  for (int i = 0; i < M; ++i) {
    const __m256 value = _mm256_broadcast_ss(x + i * stride);
    for (int h = 0; h < kHalves; ++h) acc[i][h] = _mm256_fmadd_ps(value, w[h], acc[i][h]);
  }
}

template <class Weights>
struct Float {
  template <int M>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t m, int64_t panel) {
    const int64_t k_end = args.dense.k;
    const auto* weights = static_cast<const typename Weights::Value*>(args.dense.codes) + panel * k_end * kLanes;
    const float* x = args.x + m * args.x_stride;
    FloatTile<M> tile, acc;
    begin_outputs<M>(args, m, panel, tile);
    load<M>(tile, acc);
    for (int64_t k = 0; k < k_end; ++k, weights += kLanes) {
      const __m256 w[kHalves] = {Weights::load(weights), Weights::load(weights + 8)};
      multiply<M>(x + k, args.x_stride, w, acc);
    }
    store<M>(acc, tile);
    store_outputs<M>(args, m, panel, tile);
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

// The first (kOdd: the second) bf16 of each pair, as float32.
template <bool kOdd>
[[gnu::always_inline]] inline __m256 widen(__m256i pairs) {
  return _mm256_castsi256_ps(kOdd ? _mm256_and_si256(pairs, _mm256_set1_epi32(-65536)) : _mm256_slli_epi32(pairs, 16));
}

struct Pairs {
  template <bool kOdd, int M>
  [[gnu::always_inline]] static void multiply(const uint16_t* x, int64_t stride, const __m256i (&w)[kHalves],
                                              FloatTile<M>& acc) {
    for (int i = 0; i < M; ++i) {
      int32_t pair;
      __builtin_memcpy(&pair, x + i * stride, sizeof pair);
      const __m256 value = widen<kOdd>(_mm256_set1_epi32(pair));
      for (int h = 0; h < kHalves; ++h) acc[i][h] = _mm256_fmadd_ps(value, widen<kOdd>(w[h]), acc[i][h]);
    }
  }

  template <int M>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t m, int64_t panel) {
    const int64_t pairs = (args.dense.k + 1) / 2;
    const auto* weights = static_cast<const uint16_t*>(args.dense.codes) + panel * pairs * 2 * kLanes;
    const uint16_t* x = args.halves + m * args.x_stride;
    FloatTile<M> tile, acc;
    begin_outputs<M>(args, m, panel, tile);
    load<M>(tile, acc);
    for (int64_t pair = 0; pair < pairs; ++pair, weights += 2 * kLanes, x += 2) {
      const __m256i w[kHalves] = {load_bytes(weights), load_bytes(weights + kLanes)};
      multiply<true, M>(x, args.x_stride, w, acc);
      multiply<false, M>(x, args.x_stride, w, acc);
    }
    store<M>(acc, tile);
    store_outputs<M>(args, m, panel, tile);
  }
};

// Pairs of weights, float32 input.
struct WidePairs {
  template <int M>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t m, int64_t panel) {
    const int64_t k_end = args.dense.k;
    const auto* weights = static_cast<const uint16_t*>(args.dense.codes) + panel * (k_end + 1) / 2 * 2 * kLanes;
    const float* x = args.x + m * args.x_stride;
    FloatTile<M> tile, acc;
    begin_outputs<M>(args, m, panel, tile);
    load<M>(tile, acc);
    for (int64_t k = 0; k < k_end; k += 2, weights += 2 * kLanes) {
      const __m256i w[kHalves] = {load_bytes(weights), load_bytes(weights + kLanes)};
      const __m256 first[kHalves] = {widen<false>(w[0]), widen<false>(w[1])};
      avx2::multiply<M>(x + k, args.x_stride, first, acc);
      if (k + 1 == k_end) break;
      const __m256 second[kHalves] = {widen<true>(w[0]), widen<true>(w[1])};
      avx2::multiply<M>(x + k + 1, args.x_stride, second, acc);
    }
    store<M>(acc, tile);
    store_outputs<M>(args, m, panel, tile);
  }
};

// Coded weights: a panel's are opened to pairs, 512 inputs at a time, and multiplied from there; sums rest in y.
template <class Kernel, int kTile>
void run_coded(const LinearArgs& args) {
  constexpr int64_t kInputs = 512;
  alignas(64) uint16_t pairs[kInputs * kLanes];
  for (int64_t panel = args.panel_begin; panel < args.panel_end; ++panel) {
    LinearArgs part = args;
    part.dense.n -= panel * kLanes;
    if (part.bias != nullptr) part.bias += panel * kLanes;
    part.y += panel * kLanes;
    part.dense.codes = pairs;
    for (int64_t k = 0; k < args.dense.k; k += kInputs) {
      part.dense.k = smaller(kInputs, args.dense.k - k);
      args.open(args.dense, panel, k, k + part.dense.k, pairs);
      run_panel<Kernel, kTile>(part, 0);
      part.begun = true;
      part.x += kInputs;
      part.halves += kInputs;
    }
  }
}

// What is stored of input j of a step, from the lane's 32 bits. kPanel: 0 or 1, which of a pair.
template <int kPanel>
struct W4 {
  static constexpr int64_t kPanelsInStep = 2;
  static constexpr int32_t kExcess = kPanel == 0 ? 8 : 0;  // stored - level
  static __m256i stored(__m256i raw, int64_t j) {
    if constexpr (kPanel == 0) {
      const __m256i shift = _mm256_set1_epi32(static_cast<int32_t>(j * 8));
      return _mm256_and_si256(_mm256_srlv_epi32(raw, shift), _mm256_set1_epi32(15));
    }
    return _mm256_srai_epi32(_mm256_sllv_epi32(raw, _mm256_set1_epi32(static_cast<int32_t>(24 - j * 8))), 28);
  }
};

struct W8 {
  static constexpr int64_t kPanelsInStep = 1;
  static constexpr int32_t kExcess = 0;
  static __m256i stored(__m256i raw, int64_t j) {
    const auto shift = static_cast<int32_t>(24 - j * 8);
    return _mm256_srai_epi32(_mm256_sllv_epi32(raw, _mm256_set1_epi32(shift)), 24);
  }
};

template <class Weights>
struct IntegerWeights {
  struct Step {
    const uint8_t* weights;
    const float* x;
    int64_t x_stride;
    __m256i zeros[kHalves];  // stored - zeros is the exact integer weight

    template <int M>
    [[gnu::always_inline]] void multiply_input(int64_t j, FloatTile<M>& acc) const {
      __m256 w[kHalves];
      for (int h = 0; h < kHalves; ++h) {
        const __m256i stored = Weights::stored(load_bytes(weights + 32 * h), j);
        w[h] = _mm256_cvtepi32_ps(_mm256_sub_epi32(stored, zeros[h]));
      }
      multiply<M>(x + j, x_stride, w, acc);
    }
  };

  static void load_zeros(const PackedDense& dense, int64_t at, Step& step) {
    for (int h = 0; h < kHalves; ++h) {
      step.zeros[h] = _mm256_set1_epi32(Weights::kExcess);
      if (dense.zeros != nullptr) step.zeros[h] = _mm256_add_epi32(step.zeros[h], group_zeros(dense, at + 8 * h));
    }
  }

  template <int M>
  [[gnu::always_inline]] static void add_group(const LinearArgs& args, int64_t m, int64_t panel, int64_t g,
                                               FloatTile<M>& f) {
    const PackedDense& dense = args.dense;
    const int64_t at = (panel * dense.groups + g) * kLanes;
    Step step;
    const int64_t group = panel / Weights::kPanelsInStep * dense.groups + g;
    step.weights = static_cast<const uint8_t*>(dense.codes) + group * dense.group_steps * 64;
    step.x = args.x + m * args.x_stride + g * dense.group_size;
    step.x_stride = args.x_stride;
    load_zeros(dense, at, step);
    FloatTile<M> acc{};
    int64_t left = smaller(dense.group_size, dense.k - g * dense.group_size);
    for (; left >= 4; left -= 4) {
      for (int64_t j = 0; j < 4; ++j) step.template multiply_input<M>(j, acc);
      step.weights += 64;
      step.x += 4;
    }
    for (int64_t j = 0; j < left; ++j) step.template multiply_input<M>(j, acc);
    for (int h = 0; h < kHalves; ++h) {
      const __m256 scale = group_scales(dense, at + 8 * h);
      for (int i = 0; i < M; ++i) f[i][h] = _mm256_fmadd_ps(scale, acc[i][h], f[i][h]);
    }
  }

  template <int M>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t m, int64_t panel) {
    FloatTile<M> f{}, r;
    for (int64_t g = 0; g < args.dense.groups; ++g) add_group<M>(args, m, panel, g, f);
    begin_outputs<M>(args, m, panel, r);
    for (int i = 0; i < M; ++i)
      for (int h = 0; h < kHalves; ++h) r[i][h] = _mm256_add_ps(r[i][h], f[i][h]);
    store_outputs<M>(args, m, panel, r);
  }
};

}  // namespace

void linear_f32(const LinearArgs& args) { run_tiles<Float<F32>, 6>(args); }
void linear_f16(const LinearArgs& args) { run_tiles<Float<F16>, 6>(args); }
void linear_bf16(const LinearArgs& args) { run_tiles<Float<Bf16>, 6>(args); }
void linear_bf16_pairs(const LinearArgs& args) {
  const Flushing flushing;
  run_tiles<Pairs, 4>(args);
}

void linear_coded(const LinearArgs& args) { run_coded<WidePairs, 6>(args); }
void linear_coded_pairs(const LinearArgs& args) {
  const Flushing flushing;
  run_coded<Pairs, 4>(args);
}

void linear_w4_f32(const LinearArgs& args) {
  run_tiles_in_pairs<IntegerWeights<W4<0>>, IntegerWeights<W4<1>>, 4>(args);
}

void linear_w8_f32(const LinearArgs& args) { run_tiles<IntegerWeights<W8>, 4>(args); }

}  // namespace nibble::avx2
