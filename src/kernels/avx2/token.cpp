// Norms, activation functions and rotations, eight values at a time.
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"

namespace nibble::avx2 {
namespace {

// Eight registers of four sums each: an addition takes four cycles.
struct Sums {
  __m256d at[8] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                   _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};

  // add(sum, values) for all sums; the last, incomplete run of kNormSums values goes through add_one(sum, value).
  template <class Add, class AddOne>
  [[gnu::always_inline]] double over(const float* x, int64_t width, Add add, AddOne add_one) {
    int64_t k = 0;
    for (; k + kNormSums <= width; k += kNormSums)
      for (int i = 0; i < 8; ++i) at[i] = add(at[i], _mm256_cvtps_pd(_mm_loadu_ps(x + k + 4 * i)));
    alignas(32) double sums[kNormSums];
    for (int i = 0; i < 8; ++i) _mm256_store_pd(sums + 4 * i, at[i]);
    for (int i = 0; k < width; ++k, ++i) sums[i] = add_one(sums[i], static_cast<double>(x[k]));
    for (int half = kNormSums / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    return sums[0];
  }
};

double sum(const NormArgs& args) {
  return Sums().over(
      args.x, args.width, [](__m256d s, __m256d v) { return _mm256_add_pd(s, v); },
      [](double s, double v) { return s + v; });
}

double sum_of_squares(const NormArgs& args, double mean) {
  const __m256d means = _mm256_set1_pd(mean);
  return Sums().over(
      args.x, args.width,
      [means](__m256d s, __m256d v) {
        const __m256d d = _mm256_sub_pd(v, means);
        return _mm256_fmadd_pd(d, d, s);
      },
      [mean](double s, double v) { return __builtin_fma(v - mean, v - mean, s); });
}

inline __m256 exponential(__m256 x) {
  x = _mm256_max_ps(_mm256_set1_ps(-87.0f), x);  // the second operand when it is NaN
  x = _mm256_min_ps(_mm256_set1_ps(89.0f), x);
  const __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(1.44269504f), _mm256_set1_ps(12582912.0f));
  const __m256 n = _mm256_sub_ps(shifted, _mm256_set1_ps(12582912.0f));
  const __m256 r =
      _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4f), _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693359375f), x));
  __m256 p = _mm256_set1_ps(1.0f / 5040);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  const __m256i power =
      _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23), _mm256_set1_epi32(0x3F800000));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

inline __m256 negative(__m256 x) { return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f)); }

// x / (1 + e(-z))
inline __m256 times_sigmoid(__m256 x, __m256 z) {
  return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exponential(negative(z))));
}

struct Silu {
  static __m256 of(__m256 x) { return times_sigmoid(x, x); }
};

struct GeluTanh {
  static __m256 of(__m256 x) {
    const __m256 cubic = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_set1_ps(0.044715f), x), x, _mm256_set1_ps(1.0f));
    return times_sigmoid(x, _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(1.59576912160573f), x), cubic));
  }
};

struct Relu {
  static __m256 of(__m256 x) { return _mm256_max_ps(_mm256_setzero_ps(), x); }
};

struct Gelu {
  static __m256 of(__m256 x) {
    const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x), one = _mm256_set1_ps(1.0f);
    const __m256 w = _mm256_div_ps(one, _mm256_fmadd_ps(size, _mm256_set1_ps(0.25f), one));
    __m256 p = _mm256_set1_ps(kNormalTail[9]);
    for (int i = 8; i >= 0; --i) p = _mm256_fmadd_ps(p, w, _mm256_set1_ps(kNormalTail[i]));
    const __m256 e = exponential(_mm256_mul_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(-0.5f)));
    return _mm256_fnmadd_ps(size, _mm256_mul_ps(e, _mm256_mul_ps(w, p)), Relu::of(x));
  }
};

template <class F>
void activate_with(const ActivateArgs& args) {
  for (int64_t k = 0; k < args.count; k += 8) {
    const __m256i lanes = first_lanes(args.count - k);
    __m256 y = F::of(_mm256_maskload_ps(args.x + k, lanes));
    if (args.factor != nullptr) y = _mm256_mul_ps(y, _mm256_maskload_ps(args.factor + k, lanes));
    _mm256_maskstore_ps(args.y + k, lanes, y);
  }
}

}  // namespace

void norm(const NormArgs& args) {
  const auto width = static_cast<double>(args.width);
  const double mean = args.centred ? sum(args) / width : 0;
  const __m128d root = _mm_sqrt_pd(_mm_set1_pd(sum_of_squares(args, mean) / width + args.eps));
  const __m256 inverse = _mm256_set1_ps(static_cast<float>(1.0 / _mm_cvtsd_f64(root)));
  const __m256 centre = _mm256_set1_ps(static_cast<float>(mean));
  for (int64_t k = 0; k < args.width; k += 8) {
    const __m256i lanes = first_lanes(args.width - k);
    const __m256 x = _mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(args.x + k, lanes), centre), inverse);
    const __m256 gain = args.gain == nullptr ? _mm256_set1_ps(1.0f) : _mm256_maskload_ps(args.gain + k, lanes);
    const __m256 y = args.bias == nullptr ? _mm256_mul_ps(x, gain)
                                          : _mm256_fmadd_ps(x, gain, _mm256_maskload_ps(args.bias + k, lanes));
    _mm256_maskstore_ps(args.y + k, lanes, y);
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

// Lanes with the bit H get their partner less themselves, the others the sum.
template <int H>
inline __m256 butterfly(__m256 v) {
  const __m256 partner = H == 1   ? _mm256_permute_ps(v, 0xB1)
                         : H == 2 ? _mm256_permute_ps(v, 0x4E)
                                  : _mm256_permute2f128_ps(v, v, 1);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(lane, _mm256_set1_epi32(H)), H == 1 ? 31 : H == 2 ? 30 : 29);
  return _mm256_add_ps(partner, _mm256_xor_ps(v, _mm256_castsi256_ps(sign)));
}

// Whole pieces of `size` values, `count` of them in all.
void rotate_pieces(const float* x, float* y, int64_t count, int64_t size) {
  float factor = 1;
  int64_t rest = size;
  for (; rest > 2; rest /= 4) factor *= 0.5f;
  if (rest == 2) factor *= kRootOfHalf;
  const __m256 factors = _mm256_set1_ps(factor);
  for (int64_t k = 0; k < count; k += 8) {
    const __m256i lanes = first_lanes(count - k);
    __m256 v = _mm256_maskload_ps(x + k, lanes);
    if (size >= 2) v = butterfly<1>(v);
    if (size >= 4) v = butterfly<2>(v);
    if (size >= 8) v = butterfly<4>(v);
    _mm256_maskstore_ps(y + k, lanes, size <= 8 ? _mm256_mul_ps(v, factors) : v);
  }
  for (int64_t half = 8; half < size; half *= 2)
    for (int64_t begin = 0; begin < count; begin += 2 * half)
      for (float* low = y + begin; low < y + begin + half; low += 8) {
        const __m256 a = _mm256_loadu_ps(low), b = _mm256_loadu_ps(low + half);
        const __m256 sum = _mm256_add_ps(a, b), difference = _mm256_sub_ps(a, b);
        const bool last = 2 * half == size;
        _mm256_storeu_ps(low, last ? _mm256_mul_ps(sum, factors) : sum);
        _mm256_storeu_ps(low + half, last ? _mm256_mul_ps(difference, factors) : difference);
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

}  // namespace nibble::avx2
