// Rounding of activation rows to block formats: for each block one pass for its largest magnitude, one for the levels.
// kernels/abi/token.h is the definition, operation by operation; dividing by a power of two is multiplying by its
// inverse.
//
// Levels without a table: a number is divided by the step of its exponent, rounded, and multiplied again. Per 8 values
// about 14 operations, a division more for E4M3 scales.
#include "kernels/avx2/rounding.h"
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"

namespace nibble::avx2 {
namespace {

// The largest |x| as bits: infinity or more where a value is no number.
inline uint32_t absmax_bits(const float* x, int64_t count) {
  const __m256i absolute = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i most = _mm256_setzero_si256();
  for (int64_t i = 0; i < count; i += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_maskload_ps(x + i, first_lanes(count - i)));
    most = _mm256_max_epi32(most, _mm256_and_si256(bits, absolute));
  }
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(half));
}

float to_e4m3(float scale) {
  constexpr float kLeast = 0x1p-9f, kMost = 448;
  scale = scale < kLeast ? kLeast : scale > kMost ? kMost : scale;
  const Steps steps{_mm256_set1_epi32(-9 + 127), _mm256_set1_epi32(3)};
  const float rounded = _mm256_cvtss_f32(to_multiple(_mm256_set1_ps(scale), steps, false));
  return rounded < kMost ? rounded : kMost;
}

float row_scale(const RoundArgs& args) {
  if (args.scale != BlockScale::e4m3) return 1;
  if (args.outer > 0) return args.outer;
  const uint32_t bits = absmax_bits(args.x, args.count);
  if (bits == 0 || bits >= kInfinity) return 1;
  const float scale = float_of(bits) / (args.greatest * 448);
  return power(clamped(exponent_of(scale) + ((bits_of(scale) & kMantissa) != 0), -100, 100));
}

int block_exponent(const RoundArgs& args, uint32_t most) {
  const uint32_t mantissa = most & kMantissa;
  const int exponent = static_cast<int>(most >> 23) - 127;
  return clamped(exponent - args.shift + (mantissa >= args.up_from) - (mantissa < args.down_below), -127, 127);
}

float block_scale(const RoundArgs& args, uint32_t most, float of_row) {
  if (args.scale == BlockScale::constant) return args.constant;
  if (args.scale == BlockScale::e4m3)
    return most == 0 ? of_row : to_e4m3(float_of(most) / (args.greatest * of_row)) * of_row;
  return power(block_exponent(args, most));
}

// Eight values to bfloat16, ties to even; they are no NaN. Writes the first `count`.
inline void store_halves(__m256 values, int64_t count, uint16_t* y) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i high = _mm256_srli_epi32(rounded, 16);
  const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  if (count >= 8) return _mm_storeu_si128(reinterpret_cast<__m128i*>(y), halves);
  alignas(16) uint16_t room[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(room), halves);
  for (int64_t i = 0; i < count; ++i) y[i] = room[i];
}

// Eight integers to bytes.
inline __m128i to_bytes(__m256i codes) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  return _mm_packs_epi16(words, words);
}

inline int32_t sum_of(__m256i v) {
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
}

// What a record is made with: numbers over `scale` become levels; its own scale is `written`.
struct RecordScale {
  float scale, written;
  bool exact;  // a power of two
  bool none;   // all codes are 0
};

void write_record(const EncodeArgs& args, const Levels& levels, int64_t begin, const RecordScale& of, uint8_t* record) {
  const RoundArgs& rounding = args.rounding;
  const __m256 scale = _mm256_set1_ps(of.scale), inverse = _mm256_set1_ps(1.0f / of.scale);
  const __m256 unit = _mm256_set1_ps(power(args.shift));
  __m256i sum = _mm256_setzero_si256();
  for (int64_t i = 0; i < rounding.block; i += 8) {
    __m256i codes = _mm256_setzero_si256();
    if (!of.none && begin + i < rounding.count) {
      const __m256 x = _mm256_maskload_ps(rounding.x + begin + i, first_lanes(rounding.count - begin - i));
      const __m256 u = of.exact ? _mm256_mul_ps(x, inverse) : _mm256_div_ps(x, scale);
      codes = _mm256_cvtps_epi32(_mm256_mul_ps(levels.nearest(u), unit));
    }
    sum = _mm256_add_epi32(sum, codes);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(record + i), to_bytes(codes));
  }
  const BlockTail tail{kBlockStart - 128 * sum_of(sum), of.written, kBlockStartValue * of.written, 0};
  __builtin_memcpy(record + rounding.block, &tail, sizeof tail);
}

}  // namespace

void encode(const EncodeArgs& args) {
  const RoundArgs& rounding = args.rounding;
  const Levels levels(rounding);
  const uint32_t most = absmax_bits(rounding.x, rounding.count);
  const bool nothing = most >= kInfinity, e4m3 = rounding.scale == BlockScale::e4m3;
  const float of_row = row_scale(rounding), unit = power(args.shift);
  // Exponents do not fall where magnitudes rise, so the greatest is that of the greatest magnitude.
  const int greatest = block_exponent(rounding, most);
  // Where that is subnormal it is exact all the same.
  *args.scale = nothing ? float_of(0x7FC00000) : e4m3 ? of_row / unit : power(greatest) / unit;
  uint8_t* record = args.records;
  for (int64_t begin = 0; begin < rounding.count; begin += rounding.block) {
    const uint32_t of_block = absmax_bits(rounding.x + begin, smaller(rounding.block, rounding.count - begin));
    RecordScale scale{1, 1, true, nothing};
    if (!nothing && e4m3) {
      scale.scale = block_scale(rounding, of_block, of_row);
      scale.written = scale.scale / of_row;
      scale.exact = false;
    } else if (!nothing) {
      const int exponent = block_exponent(rounding, of_block);
      scale.scale = power(exponent);
      scale.none = exponent - greatest < -126;
      scale.written = scale.none ? 1 : power(exponent - greatest);
    }
    write_record(args, levels, begin, scale, record);
    record += rounding.block + static_cast<int64_t>(sizeof(BlockTail));
  }
}

void round(const RoundArgs& args) {
  const Levels levels(args);
  const float of_row = row_scale(args);
  for (int64_t begin = 0, count; begin < args.count; begin += count) {
    count = args.block < args.count - begin ? args.block : args.count - begin;
    const uint32_t most = absmax_bits(args.x + begin, count);
    const float of_block = block_scale(args, most, of_row);
    const __m256 scale = _mm256_set1_ps(of_block);
    const bool exact = args.scale != BlockScale::e4m3;  // a power of two
    const __m256 inverse = _mm256_set1_ps(1.0f / of_block);
    for (int64_t i = 0; i < count; i += 8) {
      const __m256 x = _mm256_maskload_ps(args.x + begin + i, first_lanes(count - i));
      const __m256 u = exact ? _mm256_mul_ps(x, inverse) : _mm256_div_ps(x, scale);
      store_halves(_mm256_mul_ps(scale, levels.nearest(u)), count - i, args.y + begin + i);
    }
    if (most < kInfinity) continue;
    for (int64_t i = 0; i < count; ++i) args.y[begin + i] = 0x7FC0;
  }
}

}  // namespace nibble::avx2
