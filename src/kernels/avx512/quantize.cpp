// Split and quantization of activation rows: two passes over a row that is in the L1 cache, the first for the range,
// the second for codes and sums. format/grid.h is the definition, operation by operation: the range without NaN, one
// rounded 1/scale, multiply, clamp, round to even (the bounds are whole numbers, so these two commute), add the offset;
// a token with a NaN gets a NaN scale.
//
// In the second pass narrowing does most of the clamping: a level lies at most one step beyond its bounds, since the
// range is that of the same values, and NaN converts to the least integer. Register budget for 64 values: 4 of values,
// 1 constant of floats, 1 of words, 1 of bytes, 1 order, 1 of ones, 1 sum of 32. Per 64 values 8 operations of
// arithmetic, 2 additions of the offset, 4 of narrowing, 1 of clamping, 1 of summing: about 8 cycles.
#include "kernels/avx512/intrinsics.h"
#include "kernels/avx512/rows.h"

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

inline __mmask64 first_bytes(int64_t count) {
  if (count <= 0) return 0;
  return count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
}

// Of four registers of values at a time, so that a chain of minima does not wait for itself.
struct Extremes {
  __m512 least[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  __m512 greatest[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  __mmask16 nan = 0;

  [[gnu::always_inline]] inline void widen(int i, __m512 v) {
    least[i] = _mm512_min_ps(v, least[i]);  // the second operand when the first is NaN
    greatest[i] = _mm512_max_ps(v, greatest[i]);
  }
  [[gnu::always_inline]] inline void look_for_nan(__m512 a, __m512 b) {
    nan = _kor_mask16(nan, _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q));
  }
  float lowest() const {
    return _mm512_reduce_min_ps(_mm512_min_ps(_mm512_min_ps(least[0], least[1]), _mm512_min_ps(least[2], least[3])));
  }
  float highest() const {
    return _mm512_reduce_max_ps(
        _mm512_max_ps(_mm512_max_ps(greatest[0], greatest[1]), _mm512_max_ps(greatest[2], greatest[3])));
  }
};

Grid row_grid(const QuantizeArgs& args, const float* x) {
  Extremes extremes;
  int64_t i = 0;
  for (; i + 64 <= args.columns; i += 64) {
    const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + 16);
    const __m512 c = _mm512_loadu_ps(x + i + 32), d = _mm512_loadu_ps(x + i + 48);
    extremes.widen(0, a);
    extremes.widen(1, b);
    extremes.widen(2, c);
    extremes.widen(3, d);
    extremes.look_for_nan(a, b);
    extremes.look_for_nan(c, d);
  }
  for (; i < args.columns; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(args.columns - i), x + i);
    extremes.widen(0, v);
    extremes.look_for_nan(v, v);
  }
  Grid grid = make_grid(extremes.lowest(), extremes.highest(), args.bits, args.asymmetric);
  if (extremes.nan != 0) grid.scale = __builtin_nanf("");
  return grid;
}

struct Encoder {
  explicit Encoder(const Grid& grid)
      : inverse(_mm512_set1_ps(grid.inverse)),
        offset(_mm512_set1_epi16(static_cast<int16_t>(grid.offset))),
        most(_mm512_set1_epi8(static_cast<char>(grid.most))) {}

  const __m512 inverse;
  const __m512i offset, most;

  [[gnu::always_inline]] inline __m512i levels(__m512 v) const { return _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse)); }

  // 64 values to bytes. Narrowing leaves four codes of each register in each quarter of the result.
  [[gnu::always_inline]] inline __m512i bytes(__m512 v0, __m512 v1, __m512 v2, __m512 v3) const {
    const __m512i a = _mm512_add_epi16(_mm512_packs_epi32(levels(v0), levels(v1)), offset);
    const __m512i b = _mm512_add_epi16(_mm512_packs_epi32(levels(v2), levels(v3)), offset);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_min_epu8(_mm512_permutexvar_epi32(order, _mm512_packus_epi16(a, b)), most);
  }
};

// Codes of `count` values, then zeros up to the group's stride. Returns the sum of the codes.
[[gnu::always_inline]] inline int32_t encode_group(const QuantizeArgs& args, const Encoder& encoder, const float* x,
                                                   int64_t count, uint8_t* codes) {
  __m512i sum = _mm512_setzero_si512();
  const __m512i ones = _mm512_set1_epi8(1);
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    const __m512i bytes = encoder.bytes(_mm512_loadu_ps(x + i), _mm512_loadu_ps(x + i + 16),
                                        _mm512_loadu_ps(x + i + 32), _mm512_loadu_ps(x + i + 48));
    sum = _mm512_dpbusd_epi32(sum, bytes, ones);
    _mm512_storeu_si512(codes + i, bytes);
  }
  for (; i < args.group_stride; i += 64) {
    __m512 values[4];
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t left = count - i - 16 * j;
      values[j] = left > 0 ? _mm512_maskz_loadu_ps(first_lanes(left), x + i + 16 * j) : _mm512_setzero_ps();
    }
    const __m512i bytes =
        _mm512_maskz_mov_epi8(first_bytes(count - i), encoder.bytes(values[0], values[1], values[2], values[3]));
    sum = _mm512_dpbusd_epi32(sum, bytes, ones);
    _mm512_mask_storeu_epi8(codes + i, first_bytes(args.group_stride - i), bytes);
  }
  return _mm512_reduce_add_epi32(sum);
}

// A run of `count` values. Where the row goes on for two registers more, they are copied whole: kept columns are few,
// so that most runs are shorter, and what is written beyond the run's end is overwritten by the next.
[[gnu::always_inline]] inline void copy_run(const float* from, int64_t count, int64_t readable, float* to) {
  int64_t i = 0;
  do {
    if (i + 32 <= readable) {
      _mm512_storeu_ps(to + i, _mm512_loadu_ps(from + i));
      _mm512_storeu_ps(to + i + 16, _mm512_loadu_ps(from + i + 16));
      i += 32;
    } else {
      const __mmask16 lanes = first_lanes(readable - i);
      _mm512_mask_storeu_ps(to + i, lanes, _mm512_maskz_loadu_ps(lanes, from + i));
      i += 16;
    }
  } while (i < count);
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
  if (column < args.columns) copy_run(args.x + column, args.columns - column, args.columns - column, dense);
}

void quantize(const QuantizeArgs& args) {
  for (int64_t m = args.m_begin; m < args.m_end; ++m) {
    const float* x = args.x + m * args.x_stride;
    const Grid grid = row_grid(args, x);
    const Encoder encoder(grid);
    args.scales[m] = grid.scale;
    args.zeros[m] = grid.offset;
    for (int64_t g = 0; g < args.groups; ++g) {
      const int64_t begin = g * args.group_size, left = args.columns - begin;
      args.sums[g * args.sum_stride + m] =
          encode_group(args, encoder, x + begin, left < args.group_size ? left : args.group_size,
                       args.codes + m * args.stride + g * args.group_stride);
    }
  }
}

}  // namespace nibble::avx512
