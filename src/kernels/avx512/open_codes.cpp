// Coded layouts as bfloat16 numbers: 32 codes are an index register of vpermw, 32 numbers another.
//
// Tables of columns: a register holds those of a pair of inputs, 16 entries each, so a lookup is one shift, one operation
// that clears what lies above the code and tells the second input of a pair from the first, and vpermw: 3 operations
// for 32 weights. Tables of rows: as many lanes share a register as their tables fit, and what comes out is transposed
// to one dword a lane, which costs 1, 2 or 3 shuffles of 16 dwords a vector for 2, 3, 4 bits. A table of the matrix needs
// no second operation, but six that multiply with the scales in float32, exactly.
#include "kernels/avx512/coded.h"
#include "kernels/avx512/rows.h"

namespace nibble::avx512 {
namespace {

// In columns' tables the second input of each pair has entries 16 .. 31.
[[gnu::always_inline]] inline __m512i pair_index(__m512i nibbles) {
  return _mm512_ternarylogic_epi32(nibbles, _mm512_set1_epi32(0x000F000F), _mm512_set1_epi32(0x00100000), 0xEA);
}

template <int kBits>
void open_columns(const uint8_t* unit, const uint16_t* tables, uint16_t* to) {
  __m512i index;
  unrolled<16>([&](auto t) __attribute__((always_inline)) {
    // With 2 bits the index of an even pair is that of the next one too.
    if constexpr (kBits != 2 || t % 2 == 0) index = pair_index(code_words<kBits, t>(unit));
    _mm512_storeu_si512(to + 32 * t, _mm512_permutexvar_epi16(index, _mm512_loadu_si512(tables + 32 * t)));
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
  // Where the table of a word's lane begins.
  const __m512i lanes = _mm512_andnot_si512(_mm512_set1_epi16(kEntries - 1), _mm512_loadu_si512(kWords.number));
  unrolled<16 / kVectors>([&](auto chunk) __attribute__((always_inline)) {
    __m512i v[kVectors];
    unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
      constexpr int t = chunk * kVectors + i;
      const __m512i index = _mm512_ternarylogic_epi32(single_code_words<kBits, t>(unit),
                                                      _mm512_set1_epi16(kEntries - 1), lanes, 0xEA);
      v[i] = _mm512_permutexvar_epi16(index, _mm512_loadu_si512(tables + 32 * i));
    });
    transpose<kVectors>(v);
    unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
      _mm512_storeu_si512(to + 32 * (chunk * kVectors + i), v[i]);
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

// scales: of the unit's two halves.
template <int kBits>
void open_matrix(const uint8_t* unit, __m512i table, const __m512 (&scales)[2], uint16_t* to) {
  const __m512i upper = _mm512_set1_epi32(-65536);
  unrolled<16>([&](auto t) __attribute__((always_inline)) {
    const __m512i levels = _mm512_permutexvar_epi16(single_code_words<kBits, t>(unit), table);
    const __m512 second = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(levels, upper)), scales[t / 8]);
    const __m512 first = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(levels, 16)), scales[t / 8]);
    // first >> 16 | (second & upper)
    _mm512_storeu_si512(
        to + 32 * t, _mm512_ternarylogic_epi32(_mm512_srli_epi32(_mm512_castps_si512(first), 16),
                                               _mm512_castps_si512(second), upper, 0xF8));
  });
}

struct Opening {
  const PackedDense& dense;
  int64_t panel;

  template <int kBits>
  void unit(const uint8_t* from, int64_t k, uint16_t* to) const {
    switch (dense.tables_of) {
      case CodedTables::columns: return open_columns<kBits>(from, dense.tables + k * 16, to);
      case CodedTables::rows: {
        const int64_t table = panel * dense.groups + k / dense.group_size;
        return open_rows<kBits>(from, dense.tables + (table * kLanes << kBits), to);
      }
      case CodedTables::matrix: {
        const KeepingSubnormals mode;
        const __m512 scales[2] = {block_scales(dense, panel, k), block_scales(dense, panel, k + 16)};
        return open_matrix<kBits>(from, matrix_table(dense), scales, to);
      }
    }
  }

  static void copy(const uint8_t* from, uint16_t* to) {
    for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(to + 32 * i, _mm512_loadu_si512(from + 64 * i));
  }

  template <int kBits>
  void units(const uint8_t* from, int64_t begin, int64_t end, uint16_t* to) const {
    for (int64_t k = begin; k < end; k += kUnitInputs, from += 64 * kBits, to += kUnitInputs * kLanes) {
      if constexpr (kBits == 16) {
        copy(from, to);
      } else {
        unit<kBits>(from, k, to);
      }
    }
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
      default: return opening.units<16>(units, from, until, out);
    }
  });
}

}  // namespace nibble::avx512
