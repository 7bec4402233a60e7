// Integer weights times quantized activations: linear_w4_a8 and linear_w8_a8.
//
// vpdpbusd multiplies four unsigned bytes (activation codes, broadcast) with four signed bytes (weights) of every
// lane and adds them to the lane's int32. Four-bit weights are used as stored, level + 8 in 0..15: the mask and the
// shift are all that unpacking costs, and 8 * sum(codes) is subtracted once per group.
//
// Registers of the 6x64 tile: 24 accumulators + 4 weights + 1 broadcast + 1 mask (4 bits) = 30 of 32.
// Per step of 4 panels (256 bytes of weights): 48 vpdpbusd at 4 bits beside 12 unpacking operations; 24 at 8 bits.
// Groups: at the end of each, its sums are corrected, converted and added to f, which lives on the stack (L1).
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

template <int M, int P>
using IntegerTile = __m512i[M][P];

// The operands of one group of a tile.
struct Group {
  const uint8_t* weights;  // of the first panel
  int64_t panel_bytes;     // from panel to panel
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

template <int M, int P>
[[gnu::always_inline]] inline void multiply(const uint8_t* codes, int64_t stride, const __m512i (&w)[P],
                                            IntegerTile<M, P>& acc) {
  for (int i = 0; i < M; ++i) {
    const __m512i x = broadcast4(codes + i * stride);
    for (int p = 0; p < P; ++p) acc[i][p] = _mm512_dpbusd_epi32(acc[i][p], x, w[p]);
  }
}

template <int M, int P>
[[gnu::always_inline]] inline void store(const IntegerTile<M, P>& acc, IntegerTile<M, P>& sums) {
  for (int i = 0; i < M; ++i)
    for (int p = 0; p < P; ++p) _mm512_store_si512(&sums[i][p], acc[i][p]);
}

// With few tokens the weights stream from memory: ask for them early.
constexpr int64_t kPrefetchBytes = 1024;

template <int M, int P>
[[gnu::always_inline]] inline void prefetch(const uint8_t* weights, int64_t panel_bytes) {
  if constexpr (M <= 4) {
    for (int p = 0; p < P; ++p)
      _mm_prefetch(reinterpret_cast<const char*>(weights + p * panel_bytes + kPrefetchBytes), _MM_HINT_T0);
  }
}

struct W4 {
  static constexpr int64_t kStepInputs = 8;
  static constexpr int32_t kExcess = 8;  // stored nibble - level

  template <int M, int P>
  [[gnu::always_inline]] static void dot(const Group& group, IntegerTile<M, P>& sums) {
    IntegerTile<M, P> acc{};
    const __m512i low = _mm512_set1_epi8(15);
    const uint8_t* weights = group.weights;
    const uint8_t* codes = group.codes;
    for (int64_t step = 0; step < group.steps; ++step, weights += 64, codes += kStepInputs) {
      prefetch<M, P>(weights, group.panel_bytes);
      __m512i w[P];
      for (int p = 0; p < P; ++p) w[p] = _mm512_and_si512(load_weights(weights + p * group.panel_bytes), low);
      multiply<M, P>(codes, group.code_stride, w, acc);
      for (int p = 0; p < P; ++p) {
        const __m512i high = _mm512_srli_epi16(load_weights(weights + p * group.panel_bytes), 4);
        w[p] = _mm512_and_si512(high, low);
      }
      multiply<M, P>(codes + 4, group.code_stride, w, acc);
    }
    store<M, P>(acc, sums);
  }
};

struct W8 {
  static constexpr int64_t kStepInputs = 4;
  static constexpr int32_t kExcess = 0;

  template <int M, int P>
  [[gnu::always_inline]] static void dot(const Group& group, IntegerTile<M, P>& sums) {
    IntegerTile<M, P> acc{};
    const uint8_t* weights = group.weights;
    const uint8_t* codes = group.codes;
    for (int64_t step = 0; step < group.steps; ++step, weights += 64, codes += kStepInputs) {
      prefetch<M, P>(weights, group.panel_bytes);
      __m512i w[P];
      for (int p = 0; p < P; ++p) w[p] = load_weights(weights + p * group.panel_bytes);
      multiply<M, P>(codes, group.code_stride, w, acc);
    }
    store<M, P>(acc, sums);
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
  template <int M, int P>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t m, int64_t panel) {
    const PackedDense& dense = args.dense;
    const int64_t group_bytes = dense.group_steps * 64;
    Group group{static_cast<const uint8_t*>(dense.codes) + panel * dense.groups * group_bytes,
                dense.groups * group_bytes, args.rows.codes + m * args.rows.stride, args.rows.stride,
                dense.group_steps};
    FloatTile<M, P> f{};
    for (int64_t g = 0; g < dense.groups; ++g) {
      IntegerTile<M, P> acc;
      Weights::template dot<M, P>(group, acc);
      for (int p = 0; p < P; ++p)
        fold_panel<M, P>(args, m, ((panel + p) * dense.groups + g) * kLanes, g, p, Weights::kExcess, acc, f);
      group.weights += group_bytes;
      group.codes += dense.group_steps * Weights::kStepInputs;
    }
    finish<M, P>(args, m, panel, f);
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
};

}  // namespace

void linear_w4_a8(const LinearArgs& args) { run_tiles<Integer<W4>>(args); }
void linear_w8_a8(const LinearArgs& args) { run_tiles<Integer<W8>>(args); }

}  // namespace nibble::avx512
