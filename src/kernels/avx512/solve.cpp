// Products: tiles of 8 rows x 3 vectors of columns, 24 accumulators + 3 of b + 1 broadcast = 28 of 32 registers.
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

constexpr int kRows = 8, kVectors = 3;

// The operations of one type. fma in assembly, because g++ 12, given the intrinsic, keeps copies of the accumulators.
struct Single {
  using Value = float;
  using Vector = __m512;
  static constexpr int kLanesOf = 16;
  static Vector load(const Value* p) { return _mm512_loadu_ps(p); }
  static void store(Value* p, Vector v) { _mm512_storeu_ps(p, v); }
  static Vector broadcast(Value v) { return _mm512_set1_ps(v); }
  [[gnu::always_inline]] static void multiply_add(Vector& acc, Vector a, Vector b) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
  }
};

struct Double {
  using Value = double;
  using Vector = __m512d;
  static constexpr int kLanesOf = 8;
  static Vector load(const Value* p) { return _mm512_loadu_pd(p); }
  static void store(Value* p, Vector v) { _mm512_storeu_pd(p, v); }
  static Vector broadcast(Value v) { return _mm512_set1_pd(v); }
  [[gnu::always_inline]] static void multiply_add(Vector& acc, Vector a, Vector b) {
    asm("vfmadd231pd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
  }
};

template <class Type>
void multiply(const ProductArgs<typename Type::Value>& args) {
  using Vector = typename Type::Vector;
  constexpr int kWidth = Type::kLanesOf;
  Vector acc[kRows][kVectors];
  unrolled<kRows>([&](auto i) __attribute__((always_inline)) {
    unrolled<kVectors>([&](auto p) __attribute__((always_inline)) {
      acc[i][p] = Type::load(args.c + i * args.c_stride + p * kWidth);
    });
  });
  const auto* a = args.a;
  const auto* b = args.b;
  for (int64_t k = args.depth; k > 0; --k, a += args.a_step, b += kVectors * kWidth) {
    Vector right[kVectors];
    unrolled<kVectors>([&](auto p) __attribute__((always_inline)) { right[p] = Type::load(b + p * kWidth); });
    unrolled<kRows>([&](auto i) __attribute__((always_inline)) {
      const Vector left = Type::broadcast(a[i]);
      unrolled<kVectors>([&](auto p) __attribute__((always_inline)) { Type::multiply_add(acc[i][p], left, right[p]); });
    });
  }
  unrolled<kRows>([&](auto i) __attribute__((always_inline)) {
    unrolled<kVectors>([&](auto p) __attribute__((always_inline)) {
      Type::store(args.c + i * args.c_stride + p * kWidth, acc[i][p]);
    });
  });
}

template <int N>
[[gnu::always_inline]] inline __m512 horner(const float (&coefficients)[N], __m512 x) {
  __m512 value = _mm512_set1_ps(coefficients[N - 1]);
  unrolled<N - 1>([&](auto i) __attribute__((always_inline)) {
    value = _mm512_fmadd_ps(value, x, _mm512_set1_ps(coefficients[N - 2 - i]));
  });
  return value;
}

[[gnu::always_inline]] inline __m512 rounded(__m512 x) {
  const __m512 rounder = _mm512_set1_ps(12582912);
  return _mm512_sub_ps(_mm512_add_ps(x, rounder), rounder);
}

[[gnu::always_inline]] inline __m512 power(__m512 d, __m512 norm) {
  const __m512i bits = _mm512_castps_si512(d);
  const __m512i e = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3F3504F3)), 23);
  const __m512 m = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(e, 23)));
  const __m512 t = _mm512_sub_ps(m, _mm512_set1_ps(1));
  __m512 y = _mm512_mul_ps(norm, _mm512_fmadd_ps(t, horner(kLog2, t), _mm512_cvtepi32_ps(e)));
  y = _mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(-126)), _mm512_set1_ps(126));
  const __m512 n = rounded(y);
  const __m512i q = _mm512_castps_si512(horner(kExp2, _mm512_sub_ps(y, n)));
  return _mm512_castsi512_ps(_mm512_add_epi32(q, _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23)));
}

// The values of one grid.
struct Cost {
  __m512 inverse, least, greatest, norm;

  template <bool kSquare>
  [[gnu::always_inline]] __m512 term(__m512 value) const {
    const __m512 q = _mm512_mul_ps(value, inverse);
    const __m512 level = rounded(_mm512_min_ps(_mm512_max_ps(q, least), greatest));
    const __m512 d = _mm512_abs_ps(_mm512_sub_ps(q, level));
    return kSquare ? _mm512_mul_ps(d, d) : power(d, norm);
  }

  template <bool kSquare>
  float sum(const CostArgs& args) const {
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t i = 0;
    for (; i + kCostSums <= args.count; i += kCostSums) {
      sums[0] = _mm512_add_ps(sums[0], term<kSquare>(_mm512_loadu_ps(args.values + i)));
      sums[1] = _mm512_add_ps(sums[1], term<kSquare>(_mm512_loadu_ps(args.values + i + 16)));
    }
    for (int part = 0; part < 2 && i + 16 * part < args.count; ++part) {
      const int64_t left = args.count - i - 16 * part;
      const auto lanes = left >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << left) - 1);
      const __m512 value = _mm512_maskz_loadu_ps(lanes, args.values + i + 16 * part);
      sums[part] = _mm512_mask_add_ps(sums[part], lanes, sums[part], term<kSquare>(value));
    }
    const __m512 sixteen = _mm512_add_ps(sums[0], sums[1]);
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(sixteen), _mm512_extractf32x8_ps(sixteen, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

}  // namespace

void multiply_f32(const ProductArgs<float>& args) { multiply<Single>(args); }
void multiply_f64(const ProductArgs<double>& args) { multiply<Double>(args); }

void widen(const WidenArgs& args) {
  int64_t i = 0;
  for (; i + 8 <= args.count; i += 8) {
    const __m512d value = _mm512_cvtps_pd(_mm256_loadu_ps(args.from + i));
    _mm512_storeu_pd(args.to + i, _mm512_add_pd(_mm512_loadu_pd(args.to + i), value));
  }
  for (; i < args.count; ++i) args.to[i] += static_cast<double>(args.from[i]);
}

void add_scaled(const AddScaledArgs& args) {
  const __m512d factor = _mm512_set1_pd(args.factor);
  for (int64_t i = 0; i < args.count; i += 8) {
    const int64_t left = args.count - i;
    const auto lanes = left >= 8 ? __mmask8{0xFF} : static_cast<__mmask8>((1u << left) - 1);
    const __m512d from = _mm512_maskz_loadu_pd(lanes, args.from + i), to = _mm512_maskz_loadu_pd(lanes, args.to + i);
    _mm512_mask_storeu_pd(args.to + i, lanes, _mm512_fmadd_pd(factor, from, to));
  }
}

float cost(const CostArgs& args) {
  const Cost cost{_mm512_set1_ps(args.inverse), _mm512_set1_ps(args.least), _mm512_set1_ps(args.greatest),
                  _mm512_set1_ps(args.norm)};
  return args.norm == 2 ? cost.sum<true>(args) : cost.sum<false>(args);
}

}  // namespace nibble::avx512
