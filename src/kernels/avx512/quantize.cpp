// Fused split and quantize of activation rows: two passes over a row that is in the L1 cache, the first for the
// range, the second for codes and sums; kept columns are copied last. format/grid.h is the definition, operation by
// operation: the range without NaN, one rounded 1/scale, multiply, round to even, clamp, add the offset; a token with a
// NaN gets a NaN scale.
#include "kernels/avx512/rows.h"

#include "kernels/avx512/intrinsics.h"

namespace nibble::avx512 {
namespace {

constexpr float kSmallestRange = 1e-30f;  // as in format/grid.h

struct Grid {
  float scale, inverse;
  int32_t offset, most;
};

inline int32_t round_to_offset(float x) {  // of NaN, 0
  const __m128 rounded = _mm_roundscale_ss(_mm_setzero_ps(), _mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT);
  const float value = _mm_cvtss_f32(rounded);
  return value > 0 ? static_cast<int32_t>(value) : 0;
}

Grid make_grid(float least, float greatest, int bits, bool asymmetric) {
  const int32_t most = (1 << bits) - 1, half = 1 << (bits - 1);
  if (!asymmetric) {
    float absmax = -least > greatest ? -least : greatest;
    if (!(absmax > kSmallestRange)) absmax = 1;
    const float scale = absmax / static_cast<float>(half - 1);
    return {scale, 1.0f / scale, half, most};
  }
  if (!(greatest - least > kSmallestRange)) {
    least = -1;
    greatest = 1;
  }
  const float scale = (greatest - least) / static_cast<float>(most), inverse = 1.0f / scale;
  return {scale, inverse, round_to_offset(-least * inverse), most};
}

inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << count) - 1);
}

// Sixteen dense values from number i on, zeros outside `lanes`.
inline __m512 load_dense(const QuantizeArgs& args, const float* x, int64_t i, __mmask16 lanes) {
  if (args.dense_columns == nullptr) return _mm512_maskz_loadu_ps(lanes, x + i);
  const __m512i columns = _mm512_maskz_loadu_epi32(lanes, args.dense_columns + i);
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), lanes, columns, x, 4);
}

Grid row_grid(const QuantizeArgs& args, const float* x) {
  __m512 least = _mm512_setzero_ps(), greatest = least;
  unsigned nan = 0;
  for (int64_t i = 0; i < args.dense_count; i += 16) {
    const __m512 v = load_dense(args, x, i, first_lanes(args.dense_count - i));
    least = _mm512_min_ps(v, least);  // the second operand when the first is NaN
    greatest = _mm512_max_ps(v, greatest);
    nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  }
  Grid grid = make_grid(_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(greatest), args.bits, args.asymmetric);
  if (nan != 0) grid.scale = __builtin_nanf("");
  return grid;
}

inline __m512i encode(const Grid& grid, __m512 v) {
  const __m512 least = _mm512_set1_ps(static_cast<float>(-grid.offset));
  const __m512 greatest = _mm512_set1_ps(static_cast<float>(grid.most - grid.offset));
  __m512 level = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(grid.inverse)),
                                      _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  level = _mm512_min_ps(_mm512_max_ps(level, least), greatest);
  return _mm512_add_epi32(_mm512_cvtps_epi32(level), _mm512_set1_epi32(grid.offset));
}

// Codes of `count` dense values from number `begin` on, then zeros up to `padded` bytes. Returns the sum of codes.
int32_t encode_group(const QuantizeArgs& args, const float* x, const Grid& grid, int64_t begin, int64_t count,
                     uint8_t* codes) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < args.group_stride; i += 16) {
    const __mmask16 lanes = count > i ? first_lanes(count - i) : __mmask16{0};
    const __m512i code = _mm512_maskz_mov_epi32(lanes, encode(grid, load_dense(args, x, begin + i, lanes)));
    sum = _mm512_add_epi32(sum, code);
    _mm_mask_storeu_epi8(codes + i, first_lanes(args.group_stride - i), _mm512_cvtepi32_epi8(code));
  }
  return _mm512_reduce_add_epi32(sum);
}

}  // namespace

void quantize(const QuantizeArgs& args) {
  for (int64_t m = args.m_begin; m < args.m_end; ++m) {
    const float* x = args.x + m * args.x_stride;
    const Grid grid = row_grid(args, x);
    args.scales[m] = grid.scale;
    args.zeros[m] = grid.offset;
    for (int64_t g = 0; g < args.groups; ++g) {
      const int64_t begin = g * args.group_size, left = args.dense_count - begin;
      args.sums[m * args.groups + g] =
          encode_group(args, x, grid, begin, left < args.group_size ? left : args.group_size,
                       args.codes + m * args.stride + g * args.group_stride);
    }
    for (int64_t c = 0; c < args.kept_count; ++c) args.kept[m * args.kept_stride + c] = x[args.kept_columns[c]];
  }
}

}  // namespace nibble::avx512
