// Norms, activation functions and rotations, sixteen values at a time.
#include "kernels/avx512/intrinsics.h"
#include "kernels/avx512/rows.h"

namespace nibble::avx512 {
namespace {

inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << count) - 1);
}

// Four registers of eight sums each: an addition takes four cycles.
struct Sums {
  __m512d at[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()};

  // add(sum, values) for all sums; the last, incomplete run of kNormSums values goes through add_one(sum, value).
  template <class Add, class AddOne>
  [[gnu::always_inline]] double over(const float* x, int64_t width, Add add, AddOne add_one) {
    int64_t k = 0;
    for (; k + kNormSums <= width; k += kNormSums)
      for (int i = 0; i < 4; ++i) at[i] = add(at[i], _mm512_cvtps_pd(_mm256_loadu_ps(x + k + 8 * i)));
    alignas(64) double sums[kNormSums];
    for (int i = 0; i < 4; ++i) _mm512_store_pd(sums + 8 * i, at[i]);
    for (int i = 0; k < width; ++k, ++i) sums[i] = add_one(sums[i], static_cast<double>(x[k]));
    for (int half = kNormSums / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    return sums[0];
  }
};

double sum(const NormArgs& args) {
  return Sums().over(
      args.x, args.width, [](__m512d s, __m512d v) { return _mm512_add_pd(s, v); },
      [](double s, double v) { return s + v; });
}

double sum_of_squares(const NormArgs& args, double mean) {
  const __m512d means = _mm512_set1_pd(mean);
  return Sums().over(
      args.x, args.width,
      [means](__m512d s, __m512d v) {
        const __m512d d = _mm512_sub_pd(v, means);
        return _mm512_fmadd_pd(d, d, s);
      },
      [mean](double s, double v) { return __builtin_fma(v - mean, v - mean, s); });
}

inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);  // the second operand when it is NaN
  x = _mm512_min_ps(_mm512_set1_ps(89.0f), x);
  const __m512 shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(1.44269504f), _mm512_set1_ps(12582912.0f));
  const __m512 n = _mm512_sub_ps(shifted, _mm512_set1_ps(12582912.0f));
  const __m512 r =
      _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), x));
  __m512 p = _mm512_set1_ps(1.0f / 5040);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  const __m512i power =
      _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(shifted), 23), _mm512_set1_epi32(0x3F800000));
  return _mm512_mul_ps(p, _mm512_castsi512_ps(power));
}

inline __m512 negative(__m512 x) {
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(x), _mm512_set1_epi32(INT32_MIN)));
}

// x / (1 + e(-z))
inline __m512 times_sigmoid(__m512 x, __m512 z) {
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exponential(negative(z))));
}

struct Silu {
  static __m512 of(__m512 x) { return times_sigmoid(x, x); }
};

struct GeluTanh {
  static __m512 of(__m512 x) {
    const __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_set1_ps(0.044715f), x), x, _mm512_set1_ps(1.0f));
    return times_sigmoid(x, _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(1.59576912160573f), x), cubic));
  }
};

struct Relu {
  static __m512 of(__m512 x) { return _mm512_max_ps(_mm512_setzero_ps(), x); }
};

struct Gelu {
  static __m512 of(__m512 x) {
    const __m512 size = _mm512_abs_ps(x), one = _mm512_set1_ps(1.0f);
    const __m512 w = _mm512_div_ps(one, _mm512_fmadd_ps(size, _mm512_set1_ps(0.25f), one));
    __m512 p = _mm512_set1_ps(kNormalTail[9]);
    for (int i = 8; i >= 0; --i) p = _mm512_fmadd_ps(p, w, _mm512_set1_ps(kNormalTail[i]));
    const __m512 e = exponential(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5f)));
    return _mm512_fnmadd_ps(size, _mm512_mul_ps(e, _mm512_mul_ps(w, p)), Relu::of(x));
  }
};

template <class F>
void activate_with(const ActivateArgs& args) {
  for (int64_t k = 0; k < args.count; k += 16) {
    const __mmask16 lanes = first_lanes(args.count - k);
    __m512 y = F::of(_mm512_maskz_loadu_ps(lanes, args.x + k));
    if (args.factor != nullptr) y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(lanes, args.factor + k));
    _mm512_mask_storeu_ps(args.y + k, lanes, y);
  }
}

}  // namespace

void norm(const NormArgs& args) {
  const auto width = static_cast<double>(args.width);
  const double mean = args.centred ? sum(args) / width : 0;
  const __m128d root = _mm_sqrt_pd(_mm_set1_pd(sum_of_squares(args, mean) / width + args.eps));
  const __m512 inverse = _mm512_set1_ps(static_cast<float>(1.0 / _mm_cvtsd_f64(root)));
  const __m512 centre = _mm512_set1_ps(static_cast<float>(mean));
  for (int64_t k = 0; k < args.width; k += 16) {
    const __mmask16 lanes = first_lanes(args.width - k);
    const __m512 x = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, args.x + k), centre), inverse);
    const __m512 gain = args.gain == nullptr ? _mm512_set1_ps(1.0f) : _mm512_maskz_loadu_ps(lanes, args.gain + k);
    const __m512 y = args.bias == nullptr ? _mm512_mul_ps(x, gain)
                                          : _mm512_fmadd_ps(x, gain, _mm512_maskz_loadu_ps(lanes, args.bias + k));
    _mm512_mask_storeu_ps(args.y + k, lanes, y);
  }
}

void activate(const ActivateArgs& args) {
  switch (args.function) {
    case Function::silu: return activate_with<Silu>(args);
    case Function::gelu: return activate_with<Gelu>(args);
    case Function::gelu_tanh: return activate_with<GeluTanh>(args);
    case Function::relu: return activate_with<Relu>(args);
  }
}

namespace {

// Lanes with the bit H, `high`, get their partner less themselves, the others the sum.
inline __m512 butterfly(__m512 v, __m512 partner, __mmask16 high) {
  return _mm512_mask_sub_ps(_mm512_add_ps(partner, v), high, partner, v);
}

// Whole pieces of `size` values, `count` of them in all.
void rotate_pieces(const float* x, float* y, int64_t count, int64_t size) {
  float factor = 1;
  int64_t rest = size;
  for (; rest > 2; rest /= 4) factor *= 0.5f;
  if (rest == 2) factor *= kRootOfHalf;
  const __m512 factors = _mm512_set1_ps(factor);
  for (int64_t k = 0; k < count; k += 16) {
    const __mmask16 lanes = first_lanes(count - k);
    __m512 v = _mm512_maskz_loadu_ps(lanes, x + k);
    if (size >= 2) v = butterfly(v, _mm512_permute_ps(v, 0xB1), 0xAAAA);
    if (size >= 4) v = butterfly(v, _mm512_permute_ps(v, 0x4E), 0xCCCC);
    if (size >= 8) v = butterfly(v, _mm512_shuffle_f32x4(v, v, 0xB1), 0xF0F0);
    if (size >= 16) v = butterfly(v, _mm512_shuffle_f32x4(v, v, 0x4E), 0xFF00);
    _mm512_mask_storeu_ps(y + k, lanes, size <= 16 ? _mm512_mul_ps(v, factors) : v);
  }
  for (int64_t half = 16; half < size; half *= 2)
    for (int64_t begin = 0; begin < count; begin += 2 * half)
      for (float* low = y + begin; low < y + begin + half; low += 16) {
        const __m512 a = _mm512_loadu_ps(low), b = _mm512_loadu_ps(low + half);
        const __m512 sum = _mm512_add_ps(a, b), difference = _mm512_sub_ps(a, b);
        const bool last = 2 * half == size;
        _mm512_storeu_ps(low, last ? _mm512_mul_ps(sum, factors) : sum);
        _mm512_storeu_ps(low + half, last ? _mm512_mul_ps(difference, factors) : difference);
      }
}

}  // namespace

void rotate(const RotateArgs& args) {
  int64_t k = args.count / args.block * args.block;
  rotate_pieces(args.x, args.y, k, args.block);
  for (int64_t size = args.block; k < args.count; k += size) {
    while (size > args.count - k) size /= 2;
    rotate_pieces(args.x + k, args.y + k, size, size);
  }
}

}  // namespace nibble::avx512
