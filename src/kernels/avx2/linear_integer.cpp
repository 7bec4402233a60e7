// Integer weights times quantized activations: linear_w4_a8, linear_w8_a4 and linear_w8_a8.
//
// vpmaddubsw multiplies unsigned bytes (activation codes) with signed bytes (weights) and adds pairs into int16, which
// must not saturate. 4-bit weights as level + 8 in 0..15 reach 2 * 255 * 15 = 7650 a pair, so two steps are added in
// int16 before vpmaddwd widens them; 8-bit weights with 4-bit codes reach 2 * 15 * 128 =
// 3840. 8-bit weights with 8-bit codes would reach 65280: there the even and the odd bytes are widened to int16 in
// place and vpmaddwd multiplies them exactly.
//
// Registers of the 6x16 tile, half by half: 6 accumulators + 2 weights + 2 activations + 2 products + 2 constants = 14
// of 16.
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"

namespace nibble::avx2 {
namespace {

template <int M>
using IntegerTile = __m256i[M][kHalves];

// The operands of one group of a tile.
struct Group {
  const uint8_t* weights;
  const uint8_t* codes;  // of the first token
  int64_t code_stride;   // from token to token
  int64_t steps;
};

inline __m256i broadcast4(const uint8_t* codes) {
  int32_t word;
  __builtin_memcpy(&word, codes, sizeof word);
  return _mm256_set1_epi32(word);
}

// Panel: 0 or 1, which of a pair.
template <int kPanel>
struct W4A8 {
  static constexpr int64_t kSteps = 2;   // multiplied together
  static constexpr int32_t kExcess = 8;  // of what is multiplied over the level, in either panel

  static __m256i nibbles(const uint8_t* weights) {
    const __m256i low_bits = _mm256_set1_epi8(15), raw = load_bytes(weights);
    if constexpr (kPanel == 0) return _mm256_and_si256(raw, low_bits);
    return _mm256_xor_si256(_mm256_and_si256(_mm256_srli_epi16(raw, 4), low_bits), _mm256_set1_epi8(8));
  }

  template <int M>
  [[gnu::always_inline]] static void multiply(const uint8_t* weights, const uint8_t* codes, int64_t stride,
                                              __m256i (&acc)[M]) {
    const __m256i ones = _mm256_set1_epi16(1), now = nibbles(weights), next = nibbles(weights + 64);
    for (int i = 0; i < M; ++i) {
      const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(broadcast4(codes + i * stride), now),
                                             _mm256_maddubs_epi16(broadcast4(codes + i * stride + 4), next));
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs, ones));
    }
  }
};

struct W8A4 {
  static constexpr int64_t kSteps = 1;
  static constexpr int32_t kExcess = 0;

  template <int M>
  [[gnu::always_inline]] static void multiply(const uint8_t* weights, const uint8_t* codes, int64_t stride,
                                              __m256i (&acc)[M]) {
    const __m256i w = load_bytes(weights), ones = _mm256_set1_epi16(1);
    for (int i = 0; i < M; ++i) {
      const __m256i pairs = _mm256_maddubs_epi16(broadcast4(codes + i * stride), w);
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs, ones));
    }
  }
};

struct W8A8 {
  static constexpr int64_t kSteps = 1;
  static constexpr int32_t kExcess = 0;

  template <int M>
  [[gnu::always_inline]] static void multiply(const uint8_t* weights, const uint8_t* codes, int64_t stride,
                                              __m256i (&acc)[M]) {
    const __m256i even_bytes = _mm256_set1_epi16(255), w = load_bytes(weights);
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), odd = _mm256_srai_epi16(w, 8);
    for (int i = 0; i < M; ++i) {
      const __m256i x = broadcast4(codes + i * stride);
      const __m256i from_even = _mm256_madd_epi16(_mm256_and_si256(x, even_bytes), even);
      const __m256i from_odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), odd);
      acc[i] = _mm256_add_epi32(_mm256_add_epi32(acc[i], from_even), from_odd);
    }
  }
};

// The raw sums of one group. One half after the other: both at once would not leave registers for the operands.
template <class Kind, int M>
[[gnu::always_inline]] inline void dot(const Group& group, IntegerTile<M>& sums) {
  for (int h = 0; h < kHalves; ++h) {
    __m256i acc[M] = {};
    const uint8_t* weights = group.weights + 32 * h;
    const uint8_t* codes = group.codes;
    for (int64_t step = 0; step < group.steps; step += Kind::kSteps, weights += 64 * Kind::kSteps) {
      Kind::template multiply<M>(weights, codes, group.code_stride, acc);
      codes += 4 * Kind::kSteps;
    }
    for (int i = 0; i < M; ++i) _mm256_store_si256(&sums[i][h], acc[i]);
  }
}

// f += scale * (acc - excess and zero * sum(codes) - zero[m] * sum(levels)) for one half of one group.
template <int M>
[[gnu::always_inline]] inline void fold_half(const LinearArgs& args, int64_t m, int64_t at, int64_t g, int h,
                                             int32_t excess, const IntegerTile<M>& acc, FloatTile<M>& f) {
  const PackedDense& dense = args.dense;
  const __m256 scale = group_scales(dense, at);
  const __m256i sums = group_sums(dense, at);
  __m256i zeros = _mm256_set1_epi32(excess);
  if (dense.zeros != nullptr) zeros = _mm256_add_epi32(zeros, group_zeros(dense, at));
  for (int i = 0; i < M; ++i) {
    const __m256i code_sum = _mm256_set1_epi32(args.rows.sums[g * args.rows.sum_stride + m + i]);
    const __m256i zero = _mm256_set1_epi32(args.rows.zeros[m + i]);
    const __m256i correction = _mm256_add_epi32(_mm256_mullo_epi32(zeros, code_sum), _mm256_mullo_epi32(sums, zero));
    f[i][h] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(acc[i][h], correction)), f[i][h]);
  }
}

// kPanelsInStep: 2 where a step holds a pair of panels.
template <class Kind, int64_t kPanelsInStep>
struct Integer {
  template <int M>
  [[gnu::noinline]] static void tile(const LinearArgs& args, int64_t m, int64_t panel) {
    const PackedDense& dense = args.dense;
    const int64_t group_bytes = dense.group_steps * 64;
    Group group{static_cast<const uint8_t*>(dense.codes) + panel / kPanelsInStep * dense.groups * group_bytes,
                args.rows.codes + m * args.rows.stride, args.rows.stride, dense.group_steps};
    FloatTile<M> f{}, r;
    for (int64_t g = 0; g < dense.groups; ++g) {
      IntegerTile<M> acc;
      dot<Kind, M>(group, acc);
      const int64_t at = (panel * dense.groups + g) * kLanes;
      for (int h = 0; h < kHalves; ++h) fold_half<M>(args, m, at + 8 * h, g, h, Kind::kExcess, acc, f);
      group.weights += group_bytes;
      group.codes += dense.group_steps * 4;
    }
    begin_outputs<M>(args, m, panel, r);
    for (int i = 0; i < M; ++i) {
      const __m256 scale = _mm256_broadcast_ss(args.rows.scales + m + i);
      for (int h = 0; h < kHalves; ++h) r[i][h] = _mm256_fmadd_ps(scale, f[i][h], r[i][h]);
    }
    store_outputs<M>(args, m, panel, r);
  }
};

}  // namespace

void linear_w4_a8(const LinearArgs& args) { run_tiles_in_pairs<Integer<W4A8<0>, 2>, Integer<W4A8<1>, 2>, 6>(args); }
void linear_w8_a4(const LinearArgs& args) { run_tiles<Integer<W8A4, 1>, 6>(args); }
void linear_w8_a8(const LinearArgs& args) { run_tiles<Integer<W8A8, 1>, 6>(args); }

}  // namespace nibble::avx2
