// Activation rows as records of integers and scales. kernels/abi/token.h is the definition.
//
// One pass for the row's largest magnitude, one that encodes sixteen chunks of 16 values side by side: their largest
// magnitudes are brought into the lanes of one register by a tree of shuffles, so that exponents, scales and inverses
// of all blocks are found at once. Adding and subtracting 1.5 * 2^23 times the step of a number's exponent rounds it to
// a multiple of that step, ties to even. About 20 operations for 16 values.
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

constexpr uint32_t kInfinity = 0x7F800000, kMantissa = 0x7FFFFF;
constexpr int kChunks = 16;  // of a batch

inline uint32_t bits_of(float x) { return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_castps_si128(_mm_set_ss(x)))); }
inline float float_of(uint32_t bits) {
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(bits))));
}
inline int clamped(int value, int least, int most) { return value < least ? least : value > most ? most : value; }

inline __m512i words(int32_t value) { return _mm512_set1_epi32(value); }
// Powers of two; the least is subnormal.
inline __m512 powers(__m512i exponents) {  // from -127 on
  const __m512i bits = _mm512_slli_epi32(_mm512_add_epi32(exponents, words(127)), 23);
  return _mm512_castsi512_ps(_mm512_max_epu32(bits, words(1 << 22)));
}
inline float power(int exponent) {  // from -149 on
  return exponent > -127 ? float_of(static_cast<uint32_t>(exponent + 127) << 23) : float_of(1u << (exponent + 149));
}

inline __m512 load_values(const float* x, int64_t count) {
  if (count >= 16) return _mm512_loadu_ps(x);
  return _mm512_maskz_loadu_ps(count <= 0 ? __mmask16{0} : static_cast<__mmask16>((1u << count) - 1), x);
}

inline __m512i magnitude_bits(__m512 x) { return _mm512_and_si512(_mm512_castps_si512(x), words(0x7FFFFFFF)); }

// The largest |x| as bits: infinity or more where a value is no number.
inline uint32_t absmax_bits(const float* x, int64_t count) {
  __m512i most[2] = {};
  for (int64_t i = 0; i < count; i += 32)
    for (int half = 0; half < 2; ++half)
      most[half] = _mm512_max_epu32(most[half], magnitude_bits(load_values(x + i + 16 * half, count - i - 16 * half)));
  return _mm512_reduce_max_epu32(_mm512_max_epu32(most[0], most[1]));
}

// Lane i: the greatest lane of v[i].
inline __m512i greatest_lanes(const __m512i (&v)[kChunks]) {
  __m512i pairs[8], fours[4], halves[2];
  unrolled<8>([&](auto i) __attribute__((always_inline)) {
    const __m512i a = v[2 * i], b = v[2 * i + 1];
    pairs[i] = _mm512_max_epu32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  });
  unrolled<4>([&](auto i) __attribute__((always_inline)) {
    const __m512i a = pairs[2 * i], b = pairs[2 * i + 1];
    fours[i] = _mm512_max_epu32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  });
  unrolled<2>([&](auto i) __attribute__((always_inline)) {
    const __m512i a = fours[2 * i], b = fours[2 * i + 1];
    halves[i] = _mm512_max_epu32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xEE));
  });
  return _mm512_max_epu32(_mm512_shuffle_i32x4(halves[0], halves[1], 0x88),
                          _mm512_shuffle_i32x4(halves[0], halves[1], 0xDD));
}

// Combines every lane with those of the same run of `chunks` lanes, a power of two.
template <class Combine>
[[gnu::always_inline]] inline __m512i over_runs(__m512i v, int chunks, const Combine& combine) {
  if (chunks > 1) v = combine(v, _mm512_shuffle_epi32(v, _MM_PERM_CDAB));
  if (chunks > 2) v = combine(v, _mm512_shuffle_epi32(v, _MM_PERM_BADC));
  if (chunks > 4) v = combine(v, _mm512_shuffle_i32x4(v, v, 0xB1));
  if (chunks > 8) v = combine(v, _mm512_shuffle_i32x4(v, v, 0x4E));
  return v;
}

// To a multiple of 2^(max(exponent, least) - mantissa_bits), ties to even; `least` and `to_step` are exponents where
// floats have them.
inline __m512 to_multiple(__m512 u, __m512i least, __m512i to_step) {
  const __m512i exponent = _mm512_and_si512(_mm512_castps_si512(u), words(kInfinity));
  __m512i big = _mm512_add_epi32(_mm512_max_epi32(exponent, least), to_step);
  big = _mm512_or_si512(big, words(1 << 22));  // 1.5 * 2^23 steps
  return _mm512_sub_ps(_mm512_add_ps(u, _mm512_castsi512_ps(big)), _mm512_castsi512_ps(big));
}

// Rounds numbers in units of the least integer, 2^-shift, to integers.
struct ToEven {
  explicit ToEven(const EncodeArgs& args)
      : least(words((args.rounding.least_exponent + args.shift + 127) << 23)),
        to_step(words((23 - args.rounding.mantissa_bits) << 23)) {}
  [[gnu::always_inline]] __m512i operator()(__m512 u) const {
    return _mm512_cvtps_epi32(to_multiple(u, least, to_step));
  }
  __m512i least, to_step;
};

// Only integers round so: shift is 0.
struct Away {
  explicit Away(const EncodeArgs&) {}
  [[gnu::always_inline]] __m512i operator()(__m512 u) const {
    // The greatest number below a half: added to less than a half it stays below one, to more it is as good as a half.
    const __m512i half = words(0x3EFFFFFF), sign = words(INT32_MIN);
    const __m512 signed_half = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(u), sign, half, 0xEA));
    return _mm512_cvttps_epi32(_mm512_add_ps(u, signed_half));
  }
};

struct ToPowers {
  explicit ToPowers(const EncodeArgs& args) : least(power(args.rounding.least_exponent + args.shift)) {}
  __m512i operator()(__m512 u) const {
    const __m512i bits = magnitude_bits(u), fraction = words(static_cast<int>(kMantissa));
    const __m512 a = _mm512_castsi512_ps(bits), one = _mm512_set1_ps(least);
    const __mmask16 up = _mm512_cmpgt_epu32_mask(_mm512_and_si512(bits, fraction), words(static_cast<int>(kRootOfTwo)));
    __m512i exponent = _mm512_andnot_si512(fraction, bits);
    exponent = _mm512_mask_add_epi32(exponent, up, exponent, words(1 << 23));
    __m512 magnitude = _mm512_mask_mov_ps(_mm512_castsi512_ps(exponent), _mm512_cmp_ps_mask(a, one, _CMP_LT_OQ), one);
    magnitude = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, _mm512_set1_ps(least / 2), _CMP_GT_OQ), magnitude);
    const __m512i sign = _mm512_and_si512(_mm512_castps_si512(u), words(INT32_MIN));
    return _mm512_cvtps_epi32(_mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(magnitude), sign)));
  }
  float least;
};

// What is the same for all batches of a row.
struct Row {
  const EncodeArgs& args;
  int64_t blocks, record;
  int chunks;     // of a block
  int per_batch;  // blocks
  int run;        // lanes to combine: chunks, or all where only one block is in a batch
  int greatest;   // exponent of the row (power)
  float of_row;   // t (e4m3)
  __m512i least_code, most_code;
};

inline __m512i exponents_of(const RoundArgs& rounding, __m512i most) {
  const __m512i mantissa = _mm512_and_si512(most, words(static_cast<int>(kMantissa)));
  __m512i e = _mm512_sub_epi32(_mm512_srli_epi32(most, 23), words(127 + rounding.shift));
  const __mmask16 up = _mm512_cmpge_epu32_mask(mantissa, words(static_cast<int>(rounding.up_from)));
  const __mmask16 down = _mm512_cmplt_epu32_mask(mantissa, words(static_cast<int>(rounding.down_below)));
  e = _mm512_mask_add_epi32(e, up, e, words(1));
  e = _mm512_mask_sub_epi32(e, down, e, words(1));
  return _mm512_max_epi32(_mm512_min_epi32(e, words(127)), words(-127));
}

// By lane, the same for all chunks of a block.
struct Scales {
  __m512 factor;   // power: what numbers are multiplied with; e4m3: what they are divided by
  __m512 written;  // s
};

inline Scales power_scales(const Row& row, __m512i most) {
  const __m512i e = exponents_of(row.args.rounding, most);
  const __m512i relative = _mm512_sub_epi32(e, words(row.greatest));
  const __mmask16 none = _mm512_cmplt_epi32_mask(relative, words(-126));
  const __m512 inverse = powers(_mm512_sub_epi32(_mm512_setzero_si512(), e));
  return {_mm512_maskz_mov_ps(static_cast<__mmask16>(~none), inverse),
          powers(_mm512_mask_mov_epi32(relative, none, _mm512_setzero_si512()))};
}

inline Scales e4m3_scales(const Row& row, __m512i most) {
  const float greatest = row.args.rounding.greatest * row.of_row;
  const __m512 ratio = _mm512_div_ps(_mm512_castsi512_ps(most), _mm512_set1_ps(greatest));
  const __m512 bounded = _mm512_min_ps(_mm512_max_ps(ratio, _mm512_set1_ps(0x1p-9f)), _mm512_set1_ps(448));
  __m512 scale =
      _mm512_min_ps(to_multiple(bounded, words((-6 + 127) << 23), words((23 - 3) << 23)), _mm512_set1_ps(448));
  scale = _mm512_mask_mov_ps(scale, _mm512_testn_epi32_mask(most, most), _mm512_set1_ps(1));
  return {_mm512_mul_ps(scale, _mm512_set1_ps(row.of_row)), scale};
}

// Four chunks of integers as bytes within the levels; sums[i] += the sum of chunk i.
inline __m512i to_bytes(const Row& row, __m512i a, __m512i b, __m512i c, __m512i d, int32_t* sums) {
  __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  bytes = _mm512_min_epi8(_mm512_max_epi8(bytes, row.least_code), row.most_code);
  const __m512i fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes);
  const __m256i eights = _mm256_add_epi32(_mm512_castsi512_si256(fours), _mm512_extracti64x4_epi64(fours, 1));
  const __m128i all = _mm_add_epi32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
  _mm_store_si128(reinterpret_cast<__m128i*>(sums), all);
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes);
}

inline void store_quarters(__m512i v, uint8_t* const (&to)[4], int count) {
  if (count > 0) _mm_storeu_si128(reinterpret_cast<__m128i*>(to[0]), _mm512_castsi512_si128(v));
  if (count > 1) _mm_storeu_si128(reinterpret_cast<__m128i*>(to[1]), _mm512_extracti32x4_epi32(v, 1));
  if (count > 2) _mm_storeu_si128(reinterpret_cast<__m128i*>(to[2]), _mm512_extracti32x4_epi32(v, 2));
  if (count > 3) _mm_storeu_si128(reinterpret_cast<__m128i*>(to[3]), _mm512_extracti32x4_epi32(v, 3));
}

// The tails of the batch's blocks, whose values are in the lanes of their first chunks.
inline void store_tails(const Row& row, __m512i sums, __m512 scale, uint8_t* record, int blocks) {
  const __m512i start = _mm512_sub_epi32(words(kBlockStart), _mm512_slli_epi32(sums, 7));
  const __m512 scaled = _mm512_mul_ps(scale, _mm512_set1_ps(kBlockStartValue));
  alignas(64) int32_t starts[16];
  alignas(64) float scales[16], scaled_starts[16];
  _mm512_store_si512(starts, start);
  _mm512_store_ps(scales, scale);
  _mm512_store_ps(scaled_starts, scaled);
  for (int b = 0; b < blocks; ++b, record += row.record) {
    const int at = b * row.chunks;
    const BlockTail tail{starts[at], scales[at], scaled_starts[at], 0};
    __builtin_memcpy(record + row.args.rounding.block, &tail, sizeof tail);
  }
}

// What is done to a number before it is rounded.
enum class Scaling : uint8_t { multiply, multiply_and_shift, divide_and_shift };

// kFull: sixteen chunks, all of them inside the row.
template <class Round, Scaling kScaling, bool kFull>
void encode_batch(const Row& row, const Round& round, int64_t first) {
  const RoundArgs& rounding = row.args.rounding;
  const int blocks = static_cast<int>(smaller(row.per_batch, row.blocks - first));
  const int chunks = kFull ? kChunks : blocks * row.chunks;
  const int64_t begin = first * rounding.block;
  const float* const x = rounding.x + begin;
  __m512 values[kChunks];
  __m512i magnitudes[kChunks];
  unrolled<kChunks>([&](auto i) __attribute__((always_inline)) {
    values[i] = kFull        ? _mm512_loadu_ps(x + 16 * i)
                : i < chunks ? load_values(x + 16 * i, rounding.count - begin - 16 * i)
                             : _mm512_setzero_ps();
    magnitudes[i] = magnitude_bits(values[i]);
  });
  const __m512i most =
      over_runs(greatest_lanes(magnitudes), row.run, [](__m512i a, __m512i b) { return _mm512_max_epu32(a, b); });
  const Scales scales = kScaling == Scaling::divide_and_shift ? e4m3_scales(row, most) : power_scales(row, most);
  alignas(64) float factors[kChunks];
  alignas(64) int32_t sums[kChunks] = {};
  _mm512_store_ps(factors, scales.factor);
  const __m512 shift = _mm512_set1_ps(power(row.args.shift));
  uint8_t* const record = row.args.records + first * row.record;
  uint8_t* to = record;
  int of_block = 0;  // chunks of `to` that are written
  for (int i = 0; i < chunks; i += 4) {
    __m512i codes[4];
    for (int c = 0; c < 4; ++c) {
      const __m512 factor = _mm512_set1_ps(factors[i + c]);
      const __m512 scaled = kScaling == Scaling::divide_and_shift ? _mm512_div_ps(values[i + c], factor)
                                                                  : _mm512_mul_ps(values[i + c], factor);
      codes[c] = round(kScaling == Scaling::multiply ? scaled : _mm512_mul_ps(scaled, shift));
    }
    uint8_t* at[4];
    for (uint8_t*& place : at) {
      place = to + 16 * of_block;
      if (++of_block < row.chunks) continue;
      of_block = 0;
      to += row.record;
    }
    store_quarters(to_bytes(row, codes[0], codes[1], codes[2], codes[3], sums + i), at, chunks - i);
  }
  const __m512i of_blocks =
      over_runs(_mm512_load_si512(sums), row.run, [](__m512i a, __m512i b) { return _mm512_add_epi32(a, b); });
  store_tails(row, of_blocks, scales.written, record, blocks);
}

template <class Round, Scaling kScaling>
void encode_row(const Row& row) {
  const Round round(row.args);
  int64_t first = 0;
  if (row.per_batch * row.chunks == kChunks)
    for (; (first + row.per_batch) * row.args.rounding.block <= row.args.rounding.count; first += row.per_batch)
      encode_batch<Round, kScaling, true>(row, round, first);
  for (; first < row.blocks; first += row.per_batch) encode_batch<Round, kScaling, false>(row, round, first);
}

// A row with a NaN or an infinity.
void encode_nothing(const Row& row) {
  *row.args.scale = float_of(0x7FC00000);
  const int64_t block = row.args.rounding.block;
  for (int64_t b = 0; b < row.blocks; ++b) {
    uint8_t* const record = row.args.records + b * row.record;
    for (int64_t i = 0; i < block; ++i) record[i] = 0;
    const BlockTail tail{kBlockStart, 1, kBlockStartValue, 0};
    __builtin_memcpy(record + block, &tail, sizeof tail);
  }
}

float e4m3_row_scale(const RoundArgs& rounding, uint32_t most) {
  if (most == 0) return 1;
  const uint32_t bits = bits_of(float_of(most) / (rounding.greatest * 448));
  return power(clamped(static_cast<int>(bits >> 23) - 127 + ((bits & kMantissa) != 0), -100, 100));
}

}  // namespace

void encode(const EncodeArgs& args) {
  const RoundArgs& rounding = args.rounding;
  const auto chunks = static_cast<int>(rounding.block / 16);
  const bool side_by_side = (chunks & (chunks - 1)) == 0;
  const float unit = power(args.shift);
  Row row{args,
          (rounding.count + rounding.block - 1) / rounding.block,
          rounding.block + static_cast<int64_t>(sizeof(BlockTail)),
          chunks,
          side_by_side ? kChunks / chunks : 1,
          side_by_side ? chunks : kChunks,
          0,
          1,
          _mm512_set1_epi8(static_cast<char>(rounding.least * unit)),
          _mm512_set1_epi8(static_cast<char>(rounding.greatest * unit))};
  const uint32_t most = absmax_bits(rounding.x, rounding.count);
  if (most >= kInfinity) return encode_nothing(row);
  if (rounding.scale == BlockScale::e4m3) {
    row.of_row = e4m3_row_scale(rounding, most);
    *args.scale = row.of_row / unit;
    return encode_row<ToEven, Scaling::divide_and_shift>(row);
  }
  // Exponents do not fall where magnitudes rise, so the greatest is that of the greatest magnitude.
  row.greatest = _mm_cvtsi128_si32(_mm512_castsi512_si128(exponents_of(rounding, words(static_cast<int>(most)))));
  *args.scale = power(row.greatest - args.shift);
  switch (rounding.rounding) {
    case Rounding::to_even: return encode_row<ToEven, Scaling::multiply_and_shift>(row);
    case Rounding::away: return encode_row<Away, Scaling::multiply>(row);
    case Rounding::powers: return encode_row<ToPowers, Scaling::multiply_and_shift>(row);
  }
}

}  // namespace nibble::avx512
