// Split and quantization of activation rows: two passes over a row that is in the L1 cache, the first for the range,
// the second for codes and sums. format/grid.h is the definition, operation by operation: the range without NaN, one
// rounded 1/scale, multiply, clamp, round to even (the bounds are whole numbers, so these two commute), add the offset;
// a token with a NaN gets a NaN scale.
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"

namespace nibble::avx2 {
namespace {

constexpr float kSmallestRange = 1e-30f;  // as in format/grid.h

struct Grid {
  float scale, inverse;
  int32_t offset, most;
};

inline int32_t round_to_offset(float x) {  // of NaN, 0
  const __m128 rounded = _mm_round_ss(_mm_setzero_ps(), _mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT);
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

Grid row_grid(const QuantizeArgs& args, const float* x) {
  __m256 least = _mm256_setzero_ps(), greatest = least, nan = least;
  for (int64_t i = 0; i < args.columns; i += 8) {
    const __m256 v = _mm256_maskload_ps(x + i, first_lanes(args.columns - i));
    least = _mm256_min_ps(v, least);  // the second operand when the first is NaN
    greatest = _mm256_max_ps(v, greatest);
    nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  }
  alignas(32) float lows[8], highs[8];
  _mm256_store_ps(lows, least);
  _mm256_store_ps(highs, greatest);
  for (int i = 1; i < 8; ++i) {
    lows[0] = lows[i] < lows[0] ? lows[i] : lows[0];
    highs[0] = highs[i] > highs[0] ? highs[i] : highs[0];
  }
  Grid grid = make_grid(lows[0], highs[0], args.bits, args.asymmetric);
  if (_mm256_movemask_ps(nan) != 0) grid.scale = __builtin_nanf("");
  return grid;
}

inline __m256i encode(const Grid& grid, __m256 v) {
  const __m256 least = _mm256_set1_ps(static_cast<float>(-grid.offset));
  const __m256 greatest = _mm256_set1_ps(static_cast<float>(grid.most - grid.offset));
  const __m256 level = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(v, _mm256_set1_ps(grid.inverse)), least), greatest);
  return _mm256_add_epi32(_mm256_cvtps_epi32(level), _mm256_set1_epi32(grid.offset));
}

inline void store_bytes(uint8_t* to, __m256i codes) {
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}

// Codes of `count` values, then zeros up to the group's stride. Returns the sum of the codes.
int32_t encode_group(const QuantizeArgs& args, const float* x, const Grid& grid, int64_t count, uint8_t* codes) {
  __m256i sum = _mm256_setzero_si256();
  for (int64_t i = 0; i < args.group_stride; i += 8) {
    const __m256i lanes = first_lanes(count - i);
    const __m256i code = _mm256_and_si256(lanes, encode(grid, _mm256_maskload_ps(x + i, lanes)));
    sum = _mm256_add_epi32(sum, code);
    store_bytes(codes + i, code);
  }
  alignas(32) int32_t sums[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(sums), sum);
  return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

// A run of `count` values of which `readable` may be read: whole registers where they may, for what is written beyond
// the run's end is overwritten by the next.
inline void copy_run(const float* from, int64_t count, int64_t readable, float* to) {
  for (int64_t i = 0; i < count; i += 8) {
    const __m256i lanes = first_lanes(readable - i);
    _mm256_storeu_ps(to + i, _mm256_maskload_ps(from + i, lanes));
  }
}

}  // namespace

void split(const SplitArgs& args) {
  float* dense = args.dense;
  int64_t column = 0;
  for (int64_t c = 0; c < args.kept_count; ++c) {
    const int64_t end = args.kept_columns[c];
    copy_run(args.x + column, end - column, args.columns - column, dense);
    args.kept[c] = args.x[end];
    dense += end - column;
    column = end + 1;
  }
  copy_run(args.x + column, args.columns - column, args.columns - column, dense);
}

void quantize(const QuantizeArgs& args) {
  for (int64_t m = args.m_begin; m < args.m_end; ++m) {
    const float* x = args.x + m * args.x_stride;
    const Grid grid = row_grid(args, x);
    args.scales[m] = grid.scale;
    args.zeros[m] = grid.offset;
    for (int64_t g = 0; g < args.groups; ++g) {
      const int64_t begin = g * args.group_size;
      args.sums[g * args.sum_stride + m] =
          encode_group(args, x + begin, grid, smaller(args.group_size, args.columns - begin),
                       args.codes + m * args.stride + g * args.group_stride);
    }
  }
}

}  // namespace nibble::avx2
