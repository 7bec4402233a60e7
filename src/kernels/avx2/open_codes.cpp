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
    if (bits == 5 || bits == 6) {
      const int64_t above = bits - 4, upper_in_word = 16 / above;
      const __m256i low = shifted(unit + t / 4 * kVectorBytes, t % 4 * 4);
      const __m256i upper = shifted(unit + (4 + t / upper_in_word) * kVectorBytes, t % upper_in_word * above);
      const __m256i mask = _mm256_set1_epi16(static_cast<int16_t>((1 << above) - 1));
      return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi16(15)),
                             _mm256_slli_epi16(_mm256_and_si256(upper, mask), 4));
    }
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

  // The levels of half a lookup's words where codes are such, of the first input of pairs or the second.
  __m256 integers(const uint8_t* unit, int64_t t, int64_t half, int64_t i) const {
    const __m256i dwords = load_bytes(unit + t / 2 * kVectorBytes + half * 32);
    const __m256i high = _mm256_sll_epi32(dwords, _mm_cvtsi64_si128(24 - 8 * (t % 2) - 16 * i));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(high, 24));
  }

  static __m256i pairs_of(__m256 first, __m256 second) {
    return _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(first), 16),
                           _mm256_and_si256(_mm256_castps_si256(second), _mm256_set1_epi32(-65536)));
  }

  static __m256 broadcast(const uint16_t* half) {
    return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int32_t>(uint32_t{*half} << 16)));
  }

  void integer_columns(const uint8_t* unit, const uint16_t* tables, uint16_t* to) const {
    for (int64_t t = 0; t < kLookups; ++t, tables += 32)
      for (int64_t half = 0; half < 2; ++half, to += 2 * kDwords)
        store(to, pairs_of(_mm256_mul_ps(integers(unit, t, half, 0), broadcast(tables)),
                           _mm256_mul_ps(integers(unit, t, half, 1), broadcast(tables + 16))));
  }

  // Of eight lanes of the block that input k lies in; 1 for formats without scales.
  __m256 scales(int64_t k, int64_t half) const {
    if (dense.scales == nullptr) return _mm256_set1_ps(1);
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
    const bool integer = bits == 8 && dense.integer_codes;
    for (int64_t t = 0; t < kLookups; ++t)
      for (int64_t half = 0; half < 2; ++half, to += 2 * kDwords) {
        __m256 scale = scales(k + t * 2, half);
        if (integer) {
          scale = _mm256_mul_ps(scale, broadcast(dense.tables));
          store(to, pairs_of(_mm256_mul_ps(integers(unit, t, half, 0), scale),
                             _mm256_mul_ps(integers(unit, t, half, 1), scale)));
          continue;
        }
        const __m256i levels = gather(dense.tables, codes(unit, t, half));
        const __m256 second = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_and_si256(levels, upper)), scale);
        const __m256 first = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(levels, 16)), scale);
        store(to, pairs_of(first, second));
      }
  }

  void unit(const uint8_t* from, int64_t k, uint16_t* to) const {
    if (dense.tables_of == CodedTables::rows) {
      rows(from, dense.tables + ((panel * dense.groups + k / dense.group_size) * kLanes << bits), to);
    } else if (dense.tables_of == CodedTables::matrix) {
      matrix(from, k, to);
    } else if (bits == 2) {
      columns_of_pairs(from, dense.tables + k * 16, to);
    } else if (bits == 8) {
      integer_columns(from, dense.tables + k * 16, to);
    } else {
      columns(from, dense.tables + k * 16, to);
    }
  }

  static void store(uint16_t* to, __m256i pairs) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), pairs); }
};

// Coded integers: vpshufb looks a half of a lookup's codes up, in tables as in avx512/linear_levels.cpp.
struct LevelOpening {
  int64_t bits;
  const uint8_t* unit;

  // The codes of half a lookup in bytes.
  __m256i codes(int64_t t, int64_t half) const {
    const uint8_t* const bytes = unit + half * 32;
    const __m256i mask = _mm256_set1_epi8(static_cast<char>((1 << bits) - 1));
    if (bits != 3 || t < 6) {
      const int64_t in_byte = 8 / bits;
      const __m256i words = load_bytes(bytes + t / in_byte * kVectorBytes);
      return _mm256_and_si256(_mm256_srl_epi16(words, _mm_cvtsi64_si128(t % in_byte * bits)), mask);
    }
    const auto two = [&](int64_t vector) {  // the highest bits, above those of the vector before
      const __m256i words = load_bytes(bytes + vector * kVectorBytes);
      return _mm256_and_si256(_mm256_srl_epi16(words, _mm_cvtsi64_si128(6 - 2 * vector)),
                              _mm256_set1_epi8(static_cast<char>(3 << 2 * vector)));
    };
    const __m256i both = _mm256_or_si256(two(0), _mm256_or_si256(two(1), two(2)));
    return _mm256_and_si256(_mm256_srl_epi16(both, _mm_cvtsi64_si128((t - 6) * 3)), mask);
  }

  static __m256i table16(const int8_t* table) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  }

  // Half a step of the 8-bit layout.
  __m256i of_columns(__m256i of, const int8_t* tables) const {
    const auto find = [&](int64_t i) { return _mm256_shuffle_epi8(table16(tables + 16 * i), of); };
    if (bits == 4) {
      const __m256i odd = _mm256_set1_epi16(static_cast<int16_t>(0xFF00));
      const __m256i first = _mm256_blendv_epi8(find(0), find(1), odd),
                    second = _mm256_blendv_epi8(find(2), find(3), odd);
      return _mm256_blend_epi16(first, second, 0xAA);
    }
    // The column's number in its table above the code.
    of = _mm256_or_si256(of, _mm256_set1_epi32(bits == 2 ? 0x0C080400 : 0x08000800));
    return bits == 2 ? find(0) : _mm256_blend_epi16(find(0), find(1), 0xAA);
  }

  void columns(const int8_t* tables, int8_t* to) const {
    for (int64_t t = 0; t < 8; ++t, tables += 64)
      for (int64_t half = 0; half < 2; ++half, to += 32) store(to, of_columns(codes(t, half), tables));
  }

  // The tables of two rows of a quad, each as often as 16 bytes hold it.
  __m256i row_tables(const int8_t* tables, int64_t q, int64_t half) const {
    const auto twice = [&](const int8_t* table) {
      int64_t low = 0;
      __builtin_memcpy(&low, table, bits == 2 ? 4 : 8);
      if (bits == 2) low |= low << 32;
      int64_t high = low;
      if (bits == 4) __builtin_memcpy(&high, table + 8, 8);
      return _mm_set_epi64x(high, low);
    };
    const int8_t* const first = tables + ((4 * q + 2 * half) << bits);
    return _mm256_set_m128i(twice(first + (int64_t{1} << bits)), twice(first));
  }

  // Dwords of four inputs [row][4] of four quads become those of lanes side by side.
  void rows(const int8_t* tables, int8_t* to) const {
    for (int64_t half = 0; half < 2; ++half) {
      const __m256i of[4] = {row_tables(tables, 0, half), row_tables(tables, 1, half), row_tables(tables, 2, half),
                             row_tables(tables, 3, half)};
      for (int64_t sixteen = 0; sixteen < 2; ++sixteen) {
        __m256i v[4];
        for (int64_t q = 0; q < 4; ++q) v[q] = _mm256_shuffle_epi8(of[q], codes(sixteen * 4 + q, half));
        const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpackhi_epi32(v[0], v[1]);
        const __m256i c = _mm256_unpacklo_epi32(v[2], v[3]), d = _mm256_unpackhi_epi32(v[2], v[3]);
        int8_t* const out = to + sixteen * 256 + half * 32;
        store(out, _mm256_unpacklo_epi64(a, c));
        store(out + 64, _mm256_unpackhi_epi64(a, c));
        store(out + 128, _mm256_unpacklo_epi64(b, d));
        store(out + 192, _mm256_unpackhi_epi64(b, d));
      }
    }
  }

  static void store(int8_t* to, __m256i bytes) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes); }
};

}  // namespace

void open_levels(const PackedDense& dense, int64_t panel, int8_t* to) {
  const auto* const codes = static_cast<const uint8_t*>(dense.codes) + panel * dense.panel_bytes;
  const int64_t end = dense.groups * dense.group_steps * 4;
  int64_t s = 0;
  for (int64_t k = 0; k < end; k += kUnitInputs, to += kUnitInputs * kLanes) {
    while (s + 1 < dense.segment_count && dense.segments[s + 1].begin <= k) ++s;
    const CodedSegment& segment = dense.segments[s];
    const uint8_t* const unit =
        codes + segment.offset + (k - segment.begin) / kUnitInputs * kVectorBytes * segment.bits;
    const LevelOpening opening{segment.bits, unit};
    if (segment.bits == 8) {
      __builtin_memcpy(to, unit, kUnitInputs * kLanes);
    } else if (dense.tables_of == CodedTables::columns) {
      opening.columns(dense.level_tables + k * kLanes, to);
    } else {
      const int64_t g = k / 4 / dense.group_steps;
      opening.rows(dense.level_tables + ((panel * dense.groups + g) * kLanes << segment.bits), to);
    }
  }
}

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
