// Coded layouts as bfloat16 numbers, a half of a lookup's words at a time: eight lanes and both inputs of their pairs,
// or with tables of rows as many dwords of fewer lanes. Numbers are gathered from the tables.
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"

namespace nibble::avx2 {
namespace {

constexpr int64_t kLookups = 16, kVectorBytes = 64, kDwords = 8;  // of half a vector

// While one lives, subnormal numbers are numbers: a scale may be one.
class KeepingSubnormals {
 public:
  KeepingSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ & ~(_MM_FLUSH_ZERO_ON | 0x0040u)); }
  ~KeepingSubnormals() { _mm_setcsr(before_); }
  KeepingSubnormals(const KeepingSubnormals&) = delete;
  KeepingSubnormals& operator=(const KeepingSubnormals&) = delete;

 private:
  unsigned before_;
};

struct Opening {
  const PackedDense& dense;
  int64_t panel, bits;
  const int64_t in_word = 16 / bits, entries = int64_t{1} << bits;

  static __m256i shifted(const uint8_t* words, int64_t count) {
    return _mm256_srl_epi16(load_bytes(words), _mm_cvtsi64_si128(count));
  }

  // The codes of half a lookup's words.
  __m256i codes(const uint8_t* unit, int64_t t, int64_t half) const {
    unit += half * 32;
    if (bits == 3 && t == 15) {
      const __m256i low = shifted(unit, 15), middle = shifted(unit + kVectorBytes, 15);
      const __m256i high = shifted(unit + 2 * kVectorBytes, 15);
      return _mm256_or_si256(low, _mm256_or_si256(_mm256_slli_epi16(middle, 1), _mm256_slli_epi16(high, 2)));
    }
    const __m256i words = shifted(unit + t / in_word * kVectorBytes, t % in_word * bits);
    return _mm256_and_si256(words, _mm256_set1_epi16(static_cast<int16_t>(entries - 1)));
  }

  // Numbers at places of a table, a word each.
  static __m256i gather(const uint16_t* table, __m256i places) {
    const auto* const at = reinterpret_cast<const int*>(table);  // what lies above a number is dropped
    const __m256i lower = _mm256_set1_epi32(0xFFFF);
    const __m256i first = _mm256_i32gather_epi32(at, _mm256_and_si256(places, lower), 2);
    const __m256i second = _mm256_i32gather_epi32(at, _mm256_srli_epi32(places, 16), 2);
    return _mm256_or_si256(_mm256_and_si256(first, lower), _mm256_slli_epi32(second, 16));
  }

  void columns(const uint8_t* unit, const uint16_t* tables, uint16_t* to) const {
    const __m256i second = _mm256_set1_epi32(0x00100000);
    for (int64_t t = 0; t < kLookups; ++t, tables += 32)
      for (int64_t half = 0; half < 2; ++half, to += 2 * kDwords)
        store(to, gather(tables, _mm256_or_si256(codes(unit, t, half), second)));
  }

  // With 2 bits both codes of a pair are one place in a table of pairs.
  void columns_of_pairs(const uint8_t* unit, const uint16_t* tables, uint16_t* to) const {
    for (int64_t t = 0; t < kLookups; ++t, tables += 32)
      for (int64_t half = 0; half < 2; ++half, to += 2 * kDwords) {
        const __m256i words = load_bytes(unit + t / 8 * kVectorBytes + half * 32);
        const __m256i places = _mm256_srl_epi32(words, _mm_cvtsi64_si128(t % 8 * 4));
        store(to, _mm256_i32gather_epi32(reinterpret_cast<const int*>(tables),
                                         _mm256_and_si256(places, _mm256_set1_epi32(15)), 4));
      }
  }

  void rows(const uint8_t* unit, const uint16_t* tables, uint16_t* to) const {
    const int64_t pairs = entries / 2, lanes = kDwords / pairs > 0 ? kDwords / pairs : 1;  // of a lane; of a half
    alignas(32) uint32_t found[kDwords];
    for (int64_t t = 0; t < kLookups; ++t)
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t first = t % pairs * (32 / entries) + half * lanes;  // lane
        const __m256i lane_of_dword =
            _mm256_srl_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm_cvtsi64_si128(bits - 1));
        const __m256i base = _mm256_sll_epi32(
            _mm256_add_epi32(lane_of_dword, _mm256_set1_epi32(static_cast<int32_t>(first))), _mm_cvtsi64_si128(bits));
        const __m256i both = _mm256_or_si256(base, _mm256_slli_epi32(base, 16));
        _mm256_store_si256(reinterpret_cast<__m256i*>(found),
                           gather(tables, _mm256_or_si256(codes(unit, t, half), both)));
        for (int64_t d = 0; d < kDwords; ++d) {
          const int64_t pair = t / pairs * pairs + d % pairs, lane = first + d / pairs;
          __builtin_memcpy(to + (pair * kLanes + lane) * 2, &found[d], sizeof found[d]);
        }
      }
  }

  // Of eight lanes of the block that input k lies in.
  __m256 scales(int64_t k, int64_t half) const {
    const int64_t block = smaller(k / dense.group_size, dense.groups - 1);
    const auto* bytes = static_cast<const uint8_t*>(dense.scales) + (panel * dense.groups + block) * kLanes + half * 8;
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
    if (dense.e4m3)
      return _mm256_mul_ps(_mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(eight), 7)), _mm256_set1_ps(dense.factor));
    const __m256i exponents = _mm256_slli_epi32(_mm256_cvtepu8_epi32(eight), 23);
    return _mm256_castsi256_ps(_mm256_max_epu32(exponents, _mm256_set1_epi32(1 << 22)));  // 2^-127 is subnormal
  }

  void matrix(const uint8_t* unit, int64_t k, uint16_t* to) const {
    const KeepingSubnormals mode;
    const __m256i upper = _mm256_set1_epi32(-65536);
    for (int64_t t = 0; t < kLookups; ++t)
      for (int64_t half = 0; half < 2; ++half, to += 2 * kDwords) {
        const __m256 scale = scales(k + t * 2, half);
        const __m256i levels = gather(dense.tables, codes(unit, t, half));
        const __m256 second = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_and_si256(levels, upper)), scale);
        const __m256 first = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(levels, 16)), scale);
        store(to, _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(first), 16),
                                  _mm256_and_si256(_mm256_castps_si256(second), upper)));
      }
  }

  void unit(const uint8_t* from, int64_t k, uint16_t* to) const {
    if (bits == 16) {
      __builtin_memcpy(to, from, kLookups * kVectorBytes);
    } else if (dense.tables_of == CodedTables::rows) {
      rows(from, dense.tables + ((panel * dense.groups + k / dense.group_size) * kLanes << bits), to);
    } else if (dense.tables_of == CodedTables::matrix) {
      matrix(from, k, to);
    } else if (bits == 2) {
      columns_of_pairs(from, dense.tables + k * 16, to);
    } else {
      columns(from, dense.tables + k * 16, to);
    }
  }

  static void store(uint16_t* to, __m256i pairs) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), pairs); }
};

}  // namespace

void open_codes(const PackedDense& dense, int64_t panel, int64_t begin, int64_t end, uint16_t* to) {
  const auto* const codes = static_cast<const uint8_t*>(dense.codes) + panel * dense.panel_bytes;
  int64_t s = 0;
  for (int64_t k = begin; k < end; k += kUnitInputs, to += kUnitInputs * kLanes) {
    while (s + 1 < dense.segment_count && dense.segments[s + 1].begin <= k) ++s;
    const CodedSegment& segment = dense.segments[s];
    const Opening opening{dense, panel, segment.bits};
    opening.unit(codes + segment.offset + (k - segment.begin) / kUnitInputs * kVectorBytes * segment.bits, k, to);
  }
}

}  // namespace nibble::avx2
