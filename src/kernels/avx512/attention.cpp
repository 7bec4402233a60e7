// One query row against its cached keys and values. Three passes: scores, exponentials, weighted values.
//
// Each score is one chain of fused multiply-adds over head_dim in 16 lanes and one fixed tree of additions, eight keys
// at a time to hide latency; each output is one chain over the positions. Nothing depends on how positions are cut.
// Registers: scores 8 accumulators + 1 query + 1 key; values 8 accumulators (128 outputs) + 1 weight.
#include "kernels/avx512/rows.h"

#include "kernels/avx512/intrinsics.h"

namespace nibble::avx512 {
namespace {

inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << count) - 1);
}

struct F32 {
  using Value = float;
  static __m512 load(const float* p, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
};

struct F16 {
  using Value = uint16_t;
  static __m512 load(const uint16_t* p, __mmask16 lanes) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p)); }
};

inline float add_lanes(__m512 v) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}

// exp(x) for x <= 0: 2^n * e^r with |r| <= ln(2)/2, e^r by its Taylor polynomial of degree 7 (error 2 ulp).
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);  // the second operand, so that NaN stays NaN
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 e = _mm512_set1_ps(1.0f / 5040);
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 720));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 120));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 24));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 6));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.5f));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(e, n);
}

// Dot products of the query with keys j .. j + J - 1.
template <class Cache, int J>
[[gnu::always_inline]] inline void dot_keys(const AttentionArgs& args, int64_t j) {
  const auto* keys = static_cast<const typename Cache::Value*>(args.keys) + j * args.head_dim;
  __m512 acc[J] = {};
  for (int64_t d = 0; d < args.head_dim; d += 16) {
    const __mmask16 lanes = first_lanes(args.head_dim - d);
    const __m512 q = _mm512_maskz_loadu_ps(lanes, args.q + d);
    for (int i = 0; i < J; ++i) acc[i] = _mm512_fmadd_ps(q, Cache::load(keys + i * args.head_dim + d, lanes), acc[i]);
  }
  for (int i = 0; i < J; ++i) args.scores[j + i] = add_lanes(acc[i]);
}

// scores = scale * scores + bias; returns the greatest.
float scale_scores(const AttentionArgs& args) {
  const __m512 scale = _mm512_set1_ps(args.scale);
  __m512 greatest = _mm512_set1_ps(-__builtin_inff());
  for (int64_t j = 0; j <= args.position; j += 16) {
    const __mmask16 lanes = first_lanes(args.position + 1 - j);
    __m512 s = _mm512_mul_ps(scale, _mm512_maskz_loadu_ps(lanes, args.scores + j));
    if (args.bias != nullptr) s = _mm512_add_ps(s, _mm512_maskz_loadu_ps(lanes, args.bias + j));
    _mm512_mask_storeu_ps(args.scores + j, lanes, s);
    greatest = _mm512_mask_max_ps(greatest, lanes, greatest, s);
  }
  return _mm512_reduce_max_ps(greatest);
}

// scores = exp(scores - greatest); returns their sum.
float exponentiate(const AttentionArgs& args, float greatest) {
  __m512 total = _mm512_setzero_ps();
  for (int64_t j = 0; j <= args.position; j += 16) {
    const __mmask16 lanes = first_lanes(args.position + 1 - j);
    const __m512 s = _mm512_maskz_loadu_ps(lanes, args.scores + j);
    const __m512 p = _mm512_maskz_mov_ps(lanes, exponential(_mm512_sub_ps(s, _mm512_set1_ps(greatest))));
    _mm512_mask_storeu_ps(args.scores + j, lanes, p);
    total = _mm512_add_ps(total, p);
  }
  return add_lanes(total);
}

// y[d .. d + 16 D) = sum_j scores[j] * values[j] / total
template <class Cache, int D>
[[gnu::always_inline]] inline void add_values(const AttentionArgs& args, int64_t d, float total) {
  const auto* values = static_cast<const typename Cache::Value*>(args.values) + d;
  const __mmask16 last = first_lanes(args.head_dim - d - 16 * (D - 1));
  __m512 acc[D] = {};
  for (int64_t j = 0; j <= args.position; ++j, values += args.head_dim) {
    const __m512 p = _mm512_set1_ps(args.scores[j]);
    for (int i = 0; i < D; ++i) {
      const __mmask16 lanes = i + 1 < D ? __mmask16{0xFFFF} : last;
      acc[i] = _mm512_fmadd_ps(p, Cache::load(values + 16 * i, lanes), acc[i]);
    }
  }
  for (int i = 0; i < D; ++i) {
    const __mmask16 lanes = i + 1 < D ? __mmask16{0xFFFF} : last;
    _mm512_mask_storeu_ps(args.y + d + 16 * i, lanes, _mm512_div_ps(acc[i], _mm512_set1_ps(total)));
  }
}

template <class Cache>
void attention(const AttentionArgs& args) {
  int64_t j = 0;
  for (; j + 8 <= args.position + 1; j += 8) dot_keys<Cache, 8>(args, j);
  for (; j <= args.position; ++j) dot_keys<Cache, 1>(args, j);
  const float total = exponentiate(args, scale_scores(args));
  int64_t d = 0;
  for (; d + 128 <= args.head_dim; d += 128) add_values<Cache, 8>(args, d, total);
  for (; d + 64 <= args.head_dim; d += 64) add_values<Cache, 4>(args, d, total);
  for (; d < args.head_dim; d += 16) add_values<Cache, 1>(args, d, total);
}

}  // namespace

void attention_f32(const AttentionArgs& args) { attention<F32>(args); }
void attention_f16(const AttentionArgs& args) { attention<F16>(args); }

}  // namespace nibble::avx512
