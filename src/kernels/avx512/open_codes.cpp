// Coded layouts as bfloat16 numbers: 32 codes are an index register of vpermw, 32 numbers another.
//
// Tables of columns: a register holds those of a pair of inputs, 16 entries each. An index has the code and, above it,
// a bit that tells the second input of a pair from the first; one operation puts that bit over two codes of a word.
// With the shifts, and vpermw counted twice for its two operations, that makes 3.3 for 32 weights of 3 or 4 bits on two
// ports. With 2 bits all pairs of levels fit a register of dwords: one shift and one operation of vpermd. Tables of
// rows: as many lanes share a register as their tables fit, and what comes out is transposed to one dword a lane, which
// costs 1, 2 or 3 shuffles of 16 dwords a vector for 2, 3, 4 bits. A table of the matrix takes 2, 4, 4 or 6 for 4, 5, 6
// or 8 bits and two that add the scale to the exponent of what is not zero; where a product may be no normal number,
// six that multiply in float32, exactly.
#include "kernels/avx512/coded.h"
#include "kernels/avx512/rows.h"

namespace nibble::avx512 {
namespace {

// words >> kShift. A multiplication, which both ports do, where only one shifts, and vpermw needs both.
template <int kShift>
[[gnu::always_inline]] inline __m512i shift_words(__m512i words) {
  return _mm512_mulhi_epu16(words, _mm512_set1_epi16(static_cast<int16_t>(1 << (16 - kShift))));
}

// Indices of the lookups of a vector of codes, kStep bits apart: (code & mask) | fixed in the lowest bits, of which
// vpermw reads five. `mask` and `fixed` treat two places of a word at once, 8 or 6 bits apart, and what a place shares
// with the one above is cut off by vpermw or by the mask. body(place, index).
template <int kStep, class Body>
[[gnu::always_inline]] inline void each_index(const uint8_t* vector, __m512i mask, __m512i fixed, const Body& body) {
  constexpr int kApart = kStep == 3 ? 6 : 8, kPlaces = kApart / kStep;
  const __m512i words = _mm512_loadu_si512(vector);
  unrolled<kPlaces>([&](auto i) __attribute__((always_inline)) {
    __m512i shifted = words;
    if constexpr (i > 0) shifted = shift_words<i * kStep>(words);
    const __m512i index = _mm512_ternarylogic_epi32(shifted, mask, fixed, 0xEA);
    body(Constant<i>(), index);
    body(Constant<i + kPlaces>(), shift_words<kApart>(index));
  });
  if constexpr (kStep == 3) body(Constant<4>(), _mm512_ternarylogic_epi32(shift_words<12>(words), mask, fixed, 0xEA));
}

// In columns' tables the second input of each pair has entries 16 .. 31.
template <int kBits>
void open_columns(const uint8_t* unit, const uint16_t* tables, uint16_t* to) {
  constexpr int kPlaces = kBits == 3 ? 5 : 4;
  const __m512i mask = _mm512_set1_epi16(kBits == 3 ? ~0x0410 : 0x0F0F);
  const __m512i fixed = _mm512_set1_epi32(kBits == 3 ? 0x04100000 : 0x10100000);
  const auto look_up = [&](int64_t t, __m512i index) __attribute__((always_inline)) {
    _mm512_storeu_si512(to + 32 * t, _mm512_permutexvar_epi16(index, _mm512_loadu_si512(tables + 32 * t)));
  };
  unrolled<kBits>([&](auto v) __attribute__((always_inline)) {
    each_index<kBits>(
        unit + 64 * v, mask,
        fixed, [&](auto place, __m512i index) __attribute__((always_inline)) { look_up(v * kPlaces + place, index); });
  });
  if constexpr (kBits == 3) look_up(15, _mm512_ternarylogic_epi32(last_code_words(unit), mask, fixed, 0xEA));
}

// Both codes of a pair are one index.
template <>
void open_columns<2>(const uint8_t* unit, const uint16_t* tables, uint16_t* to) {
  unrolled<16>([&](auto t) __attribute__((always_inline)) {
    const __m512i index = _mm512_srli_epi32(vector_of(unit, t / 8), t % 8 * 4);
    _mm512_storeu_si512(to + 32 * t, _mm512_permutexvar_epi32(index, _mm512_loadu_si512(tables + 32 * t)));
  });
}

// What a transposition's step takes from two vectors of dwords [row][J], the rows of the second after those of the
// first: of each row the lower half of J, or the upper.
struct Halves {
  int32_t at[2][16];
};
constexpr Halves halves_of(int j) {
  Halves out{};
  for (int half = 0; half < 2; ++half)
    for (int lane = 0; lane < 16; ++lane) out.at[half][lane] = lane / (j / 2) * j + half * (j / 2) + lane % (j / 2);
  return out;
}
template <int J>
constexpr Halves kHalves = halves_of(J);

struct Words {
  uint16_t number[32];
};
constexpr Words numbered_words() {
  Words out{};
  for (int i = 0; i < 32; ++i) out.number[i] = static_cast<uint16_t>(i);
  return out;
}
constexpr Words kWords = numbered_words();

// V vectors [row][V] of dwords -> V vectors of the V-th dwords of all rows, in order.
template <int V>
[[gnu::always_inline]] inline void transpose(__m512i (&v)[V]) {
  if constexpr (V > 1) {
    const __m512i lower = _mm512_loadu_si512(kHalves<V>.at[0]), upper = _mm512_loadu_si512(kHalves<V>.at[1]);
    __m512i first[V / 2], second[V / 2];
    unrolled<V / 2>([&](auto i) __attribute__((always_inline)) {
      first[i] = _mm512_permutex2var_epi32(v[2 * i], lower, v[2 * i + 1]);
      second[i] = _mm512_permutex2var_epi32(v[2 * i], upper, v[2 * i + 1]);
    });
    transpose<V / 2>(first);
    transpose<V / 2>(second);
    unrolled<V / 2>([&](auto i) __attribute__((always_inline)) {
      v[i] = first[i];
      v[V / 2 + i] = second[i];
    });
  }
}

template <int kBits>
void open_rows(const uint8_t* unit, const uint16_t* tables, uint16_t* to) {
  constexpr int kEntries = 1 << kBits, kVectors = kEntries / 2;  // registers of tables, and lookups to transpose
  constexpr int kInWord = 16 / kBits;
  // Where the table of a word's lane begins.
  const __m512i lanes = _mm512_andnot_si512(_mm512_set1_epi16(kEntries - 1), _mm512_loadu_si512(kWords.number));
  constexpr int kApart = kBits == 3 ? 6 : 8;
  const __m512i mask = _mm512_set1_epi16((kEntries - 1) | (kEntries - 1) << kApart);
  const __m512i fixed = _mm512_or_si512(lanes, _mm512_slli_epi16(lanes, kApart));
  // All lookups first: those to transpose together may lie in two vectors of codes.
  __m512i v[16];
  const auto look_up = [&](auto t, __m512i index) __attribute__((always_inline)) {
    v[t] = _mm512_permutexvar_epi16(index, _mm512_loadu_si512(tables + 32 * (t % kVectors)));
  };
  unrolled<kBits>([&](auto vector) __attribute__((always_inline)) {
    each_index<kBits>(
        unit + 64 * vector, mask, fixed, [&](auto place, __m512i index) __attribute__((always_inline)) {
          look_up(Constant<vector * kInWord + place>(), index);
        });
  });
  if constexpr (kBits == 3)
    look_up(Constant<15>(), _mm512_ternarylogic_epi32(last_code_words(unit), mask, fixed, 0xEA));
  unrolled<16 / kVectors>([&](auto chunk) __attribute__((always_inline)) {
    __m512i together[kVectors];
    unrolled<kVectors>([&](auto i) __attribute__((always_inline)) { together[i] = v[chunk * kVectors + i]; });
    transpose<kVectors>(together);
    unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
      _mm512_storeu_si512(to + 32 * (chunk * kVectors + i), together[i]);
    });
  });
}

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

// The numbers that two vectors of float32 are, as pairs.
[[gnu::always_inline]] inline __m512i pairs_of(__m512 first, __m512 second) {
  // first >> 16 | (second & upper)
  return _mm512_ternarylogic_epi32(_mm512_srli_epi32(_mm512_castps_si512(first), 16), _mm512_castps_si512(second),
                                   _mm512_set1_epi32(-65536), 0xF8);
}

// scales(t, i): of lookup t and input i of a pair.
template <class Levels, class Scales>
[[gnu::always_inline]] inline void open_scaled(const Levels& levels, const uint8_t* unit, const Scales& scales,
                                               uint16_t* to) {
  unrolled<16>([&](auto t) __attribute__((always_inline)) {
    __m512 pair[2];
    levels.template levels<t>(unit, pair);
    _mm512_storeu_si512(to + 32 * t,
                        pairs_of(_mm512_mul_ps(pair[0], scales(t, 0)), _mm512_mul_ps(pair[1], scales(t, 1))));
  });
}

// The same, the scales' exponents added: [16 lanes][2] words for inputs 0 .. 15 and 16 .. 31.
template <class Levels>
[[gnu::always_inline]] inline void open_plain(const Levels& levels, const uint8_t* unit, const __m512i (&exponents)[2],
                                              uint16_t* to) {
  unrolled<16>([&](auto t) __attribute__((always_inline)) {
    const __m512i words = levels.template words<t>(unit);
    const __mmask32 some = _mm512_test_epi16_mask(words, _mm512_set1_epi16(0x7FFF));
    _mm512_storeu_si512(to + 32 * t, _mm512_mask_add_epi16(words, some, words, exponents[t / 8]));
  });
}

constexpr int64_t kAhead = 4096;  // bytes of a panel

struct Opening {
  const PackedDense& dense;
  int64_t panel;

  // Units of inputs [begin, end), one after the other.
  template <int kBits, class Unit>
  [[gnu::always_inline]] static void each_unit(const uint8_t* from, int64_t begin, int64_t end, uint16_t* to,
                                               const Unit& unit) {
    for (int64_t k = begin; k < end; k += kUnitInputs, from += 64 * kBits, to += kUnitInputs * kLanes)
      unit(from, k, to);
  }

  template <int kBits>
  void columns(const uint8_t* units, int64_t begin, int64_t end, uint16_t* out) const {
    each_unit<kBits>(units, begin, end, out, [&](const uint8_t* from, int64_t k, uint16_t* to) {
      open_columns<kBits>(from, dense.tables + k * 16, to);
    });
  }

  void integer_columns(const uint8_t* units, int64_t begin, int64_t end, uint16_t* out) const {
    each_unit<8>(units, begin, end, out, [&](const uint8_t* from, int64_t k, uint16_t* to) {
      open_scaled(
          IntegerLevels(), from,
          [&](int64_t t, int64_t i)
              __attribute__((always_inline)) { return _mm512_set1_ps(widened(dense.tables[(k + 2 * t + i) * 16])); },
          to);
    });
  }

  template <int kBits>
  void rows(const uint8_t* units, int64_t begin, int64_t end, uint16_t* out) const {
    each_unit<kBits>(units, begin, end, out, [&](const uint8_t* from, int64_t k, uint16_t* to) {
      const int64_t table = panel * dense.groups + k / dense.group_size;
      open_rows<kBits>(from, dense.tables + (table * kLanes << kBits), to);
    });
  }

  // Whether the scales of the block of input k are plain; what they add to exponents.
  bool plain_exponents(int64_t k, __m512i& to) const {
    const int64_t block = smaller(k / dense.group_size, dense.groups - 1);
    const uint8_t* const bytes = static_cast<const uint8_t*>(dense.scales) + (panel * dense.groups + block) * kLanes;
    const __m128i scales = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    const __m256i exponents = _mm256_sub_epi16(_mm256_cvtepu8_epi16(scales), _mm256_set1_epi16(127));
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_slli_epi16(exponents, 7));
    to = _mm512_or_si512(words, _mm512_slli_epi32(words, 16));
    const __m128i first = _mm_set1_epi8(static_cast<char>(dense.first_plain_scale));
    const __m128i last = _mm_set1_epi8(static_cast<char>(dense.last_plain_scale));
    return (_mm_cmpge_epu8_mask(scales, first) & _mm_cmple_epu8_mask(scales, last)) == 0xFFFF;
  }

  // A unit whose levels are multiplied with scales_at(dense, panel, k) of its blocks.
  template <class Levels, class ScalesAt>
  void scaled_unit(const Levels& levels, const uint8_t* from, int64_t k, uint16_t* to,
                   const ScalesAt& scales_at) const {
    const __m512 scales[2] = {scales_at(dense, panel, k), scales_at(dense, panel, k + 16)};
    open_scaled(
        levels, from, [&](int64_t t, int64_t) __attribute__((always_inline)) { return scales[t / 8]; }, to);
  }

  template <int kBits>
  void matrix(const uint8_t* units, int64_t begin, int64_t end, uint16_t* out) const {
    const TableLevels<kBits> levels(dense);
    if (dense.scales != nullptr) {
      const KeepingSubnormals mode;
      each_unit<kBits>(units, begin, end, out, [&](const uint8_t* from, int64_t k, uint16_t* to) {
        unrolled<kBits>([&](auto i) __attribute__((always_inline)) {
          _mm_prefetch(reinterpret_cast<const char*>(from + kAhead + 64 * i), _MM_HINT_T0);
        });
        __m512i exponents[2];
        const bool lower = plain_exponents(k, exponents[0]), upper = plain_exponents(k + 16, exponents[1]);
        if (lower && upper) return open_plain(levels, from, exponents, to);
        scaled_unit(levels, from, k, to, block_scales);
      });
      return;
    }
    each_unit<kBits>(units, begin, end, out, [&](const uint8_t* from, int64_t, uint16_t* to) {
      unrolled<kBits>([&](auto i) __attribute__((always_inline)) {
        _mm_prefetch(reinterpret_cast<const char*>(from + kAhead + 64 * i), _MM_HINT_T0);
      });
      unrolled<16>([&](auto t) __attribute__((always_inline)) {
        _mm512_storeu_si512(to + 32 * t, levels.template words<t>(from));
      });
    });
  }

  // Of up to 4 bits.
  template <int kBits>
  void units(const uint8_t* from, int64_t begin, int64_t end, uint16_t* to) const {
    switch (dense.tables_of) {
      case CodedTables::columns: return columns<kBits>(from, begin, end, to);
      case CodedTables::rows: return rows<kBits>(from, begin, end, to);
      case CodedTables::matrix: return matrix<kBits>(from, begin, end, to);
    }
  }

  void wide_units(const uint8_t* from, int64_t begin, int64_t end, uint16_t* to) const {
    if (!dense.integer_codes) return matrix<8>(from, begin, end, to);
    if (dense.tables_of == CodedTables::columns) return integer_columns(from, begin, end, to);
    const KeepingSubnormals mode;
    each_unit<8>(from, begin, end, to, [&](const uint8_t* unit, int64_t k, uint16_t* out) {
      scaled_unit(IntegerLevels(), unit, k, out, integer_scales);
    });
  }
};

}  // namespace

void open_codes(const PackedDense& dense, int64_t panel, int64_t begin, int64_t end, uint16_t* to) {
  const Opening opening{dense, panel};
  const auto* const codes = static_cast<const uint8_t*>(dense.codes) + panel * dense.panel_bytes;
  each_segment(dense, begin, end, [&](const CodedSegment& segment, int64_t from, int64_t until) {
    const uint8_t* const units = codes + unit_offset(segment, from);
    uint16_t* const out = to + (from - begin) * kLanes;
    switch (segment.bits) {
      case 2: return opening.units<2>(units, from, until, out);
      case 3: return opening.units<3>(units, from, until, out);
      case 4: return opening.units<4>(units, from, until, out);
      case 5: return opening.matrix<5>(units, from, until, out);
      case 6: return opening.matrix<6>(units, from, until, out);
      default: return opening.wide_units(units, from, until, out);
    }
  });
}

}  // namespace nibble::avx512
