// One query row against its cached keys and values. Three passes: scores, exponentials, weighted values.
//
// Each score is one chain of fused multiply-adds over head_dim in 8 lanes and one fixed tree of additions, four keys
// at a time to hide latency; each output is one chain over the positions. Nothing depends on how positions are cut.
// Registers: scores 4 accumulators + 1 query + 1 key; values 8 accumulators (64 outputs) + 1 weight + 1 value.
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

// Eight values, or the first `count` and zeros.
template <class Cache>
[[gnu::always_inline]] inline __m256 load_some(const typename Cache::Value* p, int64_t count) {
  if (count >= 8) return Cache::load(p);
  typename Cache::Value padded[8] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = p[i];
  return Cache::load(padded);
}

inline float add_lanes(__m256 v) {
  const __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

inline float greatest_lane(__m256 v) {
  const __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}

// exp(x) for x <= 0: 2^n * e^r with |r| <= ln(2)/2, e^r by its Taylor polynomial of degree 7 (error 2 ulp). Below
// e^-87, the smallest normal number, the result stays there.
inline __m256 exponential(__m256 x) {
  x = _mm256_max_ps(_mm256_set1_ps(-87.0f), x);  // the second operand, so that NaN stays NaN
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 e = _mm256_set1_ps(1.0f / 5040);
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 720));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 120));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 24));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 6));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0.5f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(e, _mm256_castsi256_ps(power));
}

// Dot products of the query with keys j .. j + J - 1.
template <class Cache, int J>
[[gnu::always_inline]] inline void dot_keys(const AttentionArgs& args, int64_t j) {
  const auto* keys = static_cast<const typename Cache::Value*>(args.keys) + j * args.head_dim;
  __m256 acc[J] = {};
  for (int64_t d = 0; d < args.head_dim; d += 8) {
    const __m256 q = load_some<F32>(args.q + d, args.head_dim - d);
    for (int i = 0; i < J; ++i) {
      const __m256 key = load_some<Cache>(keys + i * args.head_dim + d, args.head_dim - d);
      acc[i] = _mm256_fmadd_ps(q, key, acc[i]);
    }
  }
  for (int i = 0; i < J; ++i) args.scores[j + i] = add_lanes(acc[i]);
}

// scores = scale * scores + bias; returns the greatest.
float scale_scores(const AttentionArgs& args) {
  const __m256 scale = _mm256_set1_ps(args.scale);
  __m256 greatest = _mm256_set1_ps(-__builtin_inff());
  for (int64_t j = 0; j <= args.position; j += 8) {
    const __m256i lanes = first_lanes(args.position + 1 - j);
    __m256 s = _mm256_mul_ps(scale, _mm256_maskload_ps(args.scores + j, lanes));
    if (args.bias != nullptr) s = _mm256_add_ps(s, _mm256_maskload_ps(args.bias + j, lanes));
    _mm256_maskstore_ps(args.scores + j, lanes, s);
    greatest = _mm256_blendv_ps(greatest, _mm256_max_ps(greatest, s), _mm256_castsi256_ps(lanes));
  }
  return greatest_lane(greatest);
}

// scores = exp(scores - greatest); returns their sum.
float exponentiate(const AttentionArgs& args, float greatest) {
  __m256 total = _mm256_setzero_ps();
  for (int64_t j = 0; j <= args.position; j += 8) {
    const __m256i lanes = first_lanes(args.position + 1 - j);
    const __m256 s = _mm256_maskload_ps(args.scores + j, lanes);
    const __m256 p = exponential(_mm256_sub_ps(s, _mm256_set1_ps(greatest)));
    _mm256_maskstore_ps(args.scores + j, lanes, p);
    total = _mm256_add_ps(total, _mm256_and_ps(p, _mm256_castsi256_ps(lanes)));
  }
  return add_lanes(total);
}

// y[d .. d + 8 D) = sum_j scores[j] * values[j] / total; `count` outputs are left, fewer than 8 only for D = 1.
template <class Cache, int D>
[[gnu::always_inline]] inline void add_values(const AttentionArgs& args, int64_t d, float total) {
  const auto* values = static_cast<const typename Cache::Value*>(args.values) + d;
  const int64_t count = args.head_dim - d;
  __m256 acc[D] = {};
  for (int64_t j = 0; j <= args.position; ++j, values += args.head_dim) {
    const __m256 p = _mm256_broadcast_ss(args.scores + j);
    for (int i = 0; i < D; ++i) {
      const __m256 value = D > 1 ? Cache::load(values + 8 * i) : load_some<Cache>(values, count);
      acc[i] = _mm256_fmadd_ps(p, value, acc[i]);
    }
  }
  for (int i = 0; i < D; ++i)
    _mm256_maskstore_ps(args.y + d + 8 * i, first_lanes(count - 8 * i), _mm256_div_ps(acc[i], _mm256_set1_ps(total)));
}

template <class Cache>
void attention(const AttentionArgs& args) {
  int64_t j = 0;
  for (; j + 4 <= args.position + 1; j += 4) dot_keys<Cache, 4>(args, j);
  for (; j <= args.position; ++j) dot_keys<Cache, 1>(args, j);
  const float total = exponentiate(args, scale_scores(args));
  int64_t d = 0;
  for (; d + 64 <= args.head_dim; d += 64) add_values<Cache, 8>(args, d, total);
  for (; d < args.head_dim; d += 8) add_values<Cache, 1>(args, d, total);
}

}  // namespace

void attention_f32(const AttentionArgs& args) { attention<F32>(args); }
void attention_f16(const AttentionArgs& args) { attention<F16>(args); }

}  // namespace nibble::avx2
