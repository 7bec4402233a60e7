// Products: tiles of 4 rows x 3 vectors of columns, 12 accumulators + 3 of b + 1 broadcast = 16 registers.
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"

namespace nibble::avx2 {
namespace {

constexpr int kRows = 4, kVectors = 3;

struct Single {
  using Value = float;
  using Vector = __m256;
  static constexpr int kLanesOf = 8;
  static Vector load(const Value* p) { return _mm256_loadu_ps(p); }
  static void store(Value* p, Vector v) { _mm256_storeu_ps(p, v); }
  static Vector broadcast(const Value* p) { return _mm256_broadcast_ss(p); }
  [[gnu::always_inline]] static void multiply_add(Vector& acc, Vector a, Vector b) {
    asm("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
  }
};

struct Double {
  using Value = double;
  using Vector = __m256d;
  static constexpr int kLanesOf = 4;
  static Vector load(const Value* p) { return _mm256_loadu_pd(p); }
  static void store(Value* p, Vector v) { _mm256_storeu_pd(p, v); }
  static Vector broadcast(const Value* p) { return _mm256_broadcast_sd(p); }
  [[gnu::always_inline]] static void multiply_add(Vector& acc, Vector a, Vector b) {
    asm("vfmadd231pd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
  }
};

template <class Type>
void multiply(const ProductArgs<typename Type::Value>& args) {
  using Vector = typename Type::Vector;
  constexpr int kWidth = Type::kLanesOf;
  Vector acc[kRows][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
    for (int p = 0; p < kVectors; ++p) acc[i][p] = Type::load(args.c + i * args.c_stride + p * kWidth);
  const auto* a = args.a;
  const auto* b = args.b;
  for (int64_t k = args.depth; k > 0; --k, a += args.a_step, b += kVectors * kWidth) {
    const Vector right[kVectors] = {Type::load(b), Type::load(b + kWidth), Type::load(b + 2 * kWidth)};
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const Vector left = Type::broadcast(a + i);
#pragma GCC unroll 3
      for (int p = 0; p < kVectors; ++p) Type::multiply_add(acc[i][p], left, right[p]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
    for (int p = 0; p < kVectors; ++p) Type::store(args.c + i * args.c_stride + p * kWidth, acc[i][p]);
}

template <int N>
[[gnu::always_inline]] inline __m256 horner(const float (&coefficients)[N], __m256 x) {
  __m256 value = _mm256_set1_ps(coefficients[N - 1]);
#pragma GCC unroll 8
  for (int i = N - 2; i >= 0; --i) value = _mm256_fmadd_ps(value, x, _mm256_set1_ps(coefficients[i]));
  return value;
}

[[gnu::always_inline]] inline __m256 rounded(__m256 x) {
  const __m256 rounder = _mm256_set1_ps(12582912);
  return _mm256_sub_ps(_mm256_add_ps(x, rounder), rounder);
}

[[gnu::always_inline]] inline __m256 power(__m256 d, __m256 norm) {
  const __m256i bits = _mm256_castps_si256(d);
  const __m256i e = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3F3504F3)), 23);
  const __m256 m = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(e, 23)));
  const __m256 t = _mm256_sub_ps(m, _mm256_set1_ps(1));
  __m256 y = _mm256_mul_ps(norm, _mm256_fmadd_ps(t, horner(kLog2, t), _mm256_cvtepi32_ps(e)));
  y = _mm256_min_ps(_mm256_max_ps(y, _mm256_set1_ps(-126)), _mm256_set1_ps(126));
  const __m256 n = rounded(y);
  const __m256i q = _mm256_castps_si256(horner(kExp2, _mm256_sub_ps(y, n)));
  return _mm256_castsi256_ps(_mm256_add_epi32(q, _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}

// The values of one grid.
struct Cost {
  __m256 inverse, least, greatest, norm;
  bool square;

  [[gnu::always_inline]] __m256 term(__m256 value) const {
    const __m256 q = _mm256_mul_ps(value, inverse);
    const __m256 level = rounded(_mm256_min_ps(_mm256_max_ps(q, least), greatest));
    const __m256 d = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_sub_ps(q, level));
    return square ? _mm256_mul_ps(d, d) : power(d, norm);
  }
};

}  // namespace

void multiply_f32(const ProductArgs<float>& args) { multiply<Single>(args); }
void multiply_f64(const ProductArgs<double>& args) { multiply<Double>(args); }

void widen(const WidenArgs& args) {
  int64_t i = 0;
  for (; i + 4 <= args.count; i += 4) {
    const __m256d value = _mm256_cvtps_pd(_mm_loadu_ps(args.from + i));
    _mm256_storeu_pd(args.to + i, _mm256_add_pd(_mm256_loadu_pd(args.to + i), value));
  }
  for (; i < args.count; ++i) args.to[i] += static_cast<double>(args.from[i]);
}

void add_scaled(const AddScaledArgs& args) {
  const __m256d factor = _mm256_set1_pd(args.factor);
  int64_t i = 0;
  for (; i + 4 <= args.count; i += 4)
    _mm256_storeu_pd(args.to + i,
                     _mm256_fmadd_pd(factor, _mm256_loadu_pd(args.from + i), _mm256_loadu_pd(args.to + i)));
  for (; i < args.count; ++i) {
    const __m128d sum =
        _mm_fmadd_sd(_mm256_castpd256_pd128(factor), _mm_load_sd(args.from + i), _mm_load_sd(args.to + i));
    _mm_store_sd(args.to + i, sum);
  }
}

float cost(const CostArgs& args) {
  const Cost cost{_mm256_set1_ps(args.inverse), _mm256_set1_ps(args.least), _mm256_set1_ps(args.greatest),
                  _mm256_set1_ps(args.norm), args.norm == 2};
  __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  int64_t i = 0;
  for (; i + kCostSums <= args.count; i += kCostSums)
    for (int part = 0; part < 4; ++part)
      sums[part] = _mm256_add_ps(sums[part], cost.term(_mm256_loadu_ps(args.values + i + 8 * part)));
  for (int part = 0; part < 4 && i + 8 * part < args.count; ++part) {
    const __m256i lanes = first_lanes(args.count - i - 8 * part);
    const __m256 value = cost.term(_mm256_maskload_ps(args.values + i + 8 * part, lanes));
    sums[part] = _mm256_blendv_ps(sums[part], _mm256_add_ps(sums[part], value), _mm256_castsi256_ps(lanes));
  }
  const __m256 eight = _mm256_add_ps(_mm256_add_ps(sums[0], sums[2]), _mm256_add_ps(sums[1], sums[3]));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace nibble::avx2
