// Coded integers times quantized activations of few tokens, linear_coded_a8, and opened for more.
//
// vpshufb looks 64 codes up in tables of 16 bytes: those of rows at once, since every quarter of a register has a table
// of its own; with tables of columns a quarter holds lanes of four columns, whose levels come out of one table (2
// bits), or of two and four, merged under masks. Not vpermb, which would do with one: processors of this level may lack
// it. Operations for 64 weights on two ports, shifts and vpshufb on one of them:
//   2 bits  3/4 shift, AND-OR, 1 lookup, 1 product: 3.75
//   3 bits  3/8 shift, AND-OR, 2, 1, and for one code in four 1.25 more each that gather its bits: 5.1
//   4 bits  1/2 shift, AND, 4, 1: 6.5
// Tables of rows save all lookups but one. Sums of columns have an output to a lane. With rows a lane has four of the
// 16 inputs of one output, and four registers have the outputs of a panel: their quarters are added at a group's end.
#include "kernels/avx512/coded.h"
#include "kernels/avx512/rows.h"

namespace nibble::avx512 {
namespace {

template <int M, int P>
using IntegerTile = __m512i[M][P];

constexpr int kLookups = 8, kQuads = 4;
constexpr int64_t kAhead = 4096;  // bytes of a panel

[[gnu::always_inline]] inline void dot4(__m512i& acc, __m512i x, __m512i w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
}

inline __m512i broadcast4(const uint8_t* codes) {
  int32_t word;
  __builtin_memcpy(&word, codes, sizeof word);
  return _mm512_set1_epi32(word);
}

inline __m512i broadcast16(const void* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}

// a where the bits of `mask` are zero, b where they are one.
inline __m512i select(__m512i mask, __m512i a, __m512i b) { return _mm512_ternarylogic_epi32(mask, b, a, 0xCA); }

// The codes of lookup T in the lowest bits of bytes; what lies above is not cleared.
template <int kBits, int T>
[[gnu::always_inline]] inline __m512i code_bytes(const uint8_t* unit) {
  if constexpr (kBits == 3 && T >= 6) {
    const __m512i low = _mm512_srli_epi16(vector_of(unit, 0), 6), middle = _mm512_srli_epi16(vector_of(unit, 1), 4);
    const __m512i high = _mm512_srli_epi16(vector_of(unit, 2), 2);
    const __m512i both = select(_mm512_set1_epi8(0x0F), high, select(_mm512_set1_epi8(0x03), middle, low));
    return T == 6 ? both : _mm512_srli_epi16(both, 3);
  } else {
    constexpr int kInByte = 8 / kBits;
    const __m512i bytes = vector_of(unit, T / kInByte);
    return T % kInByte == 0 ? bytes : _mm512_srli_epi16(bytes, T % kInByte * kBits);
  }
}

// The tables of four columns.
template <int kBits>
struct ColumnTables {
  static constexpr int kTables = 1 << (kBits - 2), kColumns = 4 / kTables;
  __m512i of[kTables];

  [[gnu::always_inline]] explicit ColumnTables(const int8_t* tables) {
    unrolled<kTables>([&](auto i) __attribute__((always_inline)) { of[i] = broadcast16(tables + 16 * i); });
  }

  // The levels of a lookup, as a step of the 8-bit layout.
  [[gnu::always_inline]] __m512i operator()(__m512i codes) const {
    const __m512i mask = _mm512_set1_epi8((1 << kBits) - 1);
    if constexpr (kBits == 4) {
      codes = _mm512_and_si512(codes, mask);
    } else {  // the column's number in its table above the code
      const __m512i number = _mm512_set1_epi32(kBits == 2 ? 0x0C080400 : 0x08000800);
      codes = _mm512_ternarylogic_epi32(codes, mask, number, 0xEA);
    }
    __m512i levels = _mm512_shuffle_epi8(of[0], codes);
    unrolled<kTables - 1>([&](auto i) __attribute__((always_inline)) {
      constexpr uint64_t kFirst = kColumns == 2 ? 0x3333333333333333 : 0x1111111111111111;
      levels = _mm512_mask_shuffle_epi8(levels, kFirst << (i + 1) * kColumns, of[i + 1], codes);
    });
    return levels;
  }
};

// The tables of a panel's rows: register q those of lanes q, 4 + q, 8 + q and 12 + q, each as often as 16 bytes hold
// it.
template <int kBits>
struct RowTables {
  __m512i of[kQuads];

  [[gnu::always_inline]] void load(const int8_t* tables) {
    unrolled<kQuads>([&](auto q) __attribute__((always_inline)) {
      const int8_t* const from = tables + (4 * q << kBits);
      if constexpr (kBits == 4) {
        of[q] = _mm512_loadu_si512(from);
      } else if constexpr (kBits == 3) {
        const __m256i four = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        of[q] = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), _mm512_castsi256_si512(four));
      } else {
        const __m128i four = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        of[q] = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
                                         _mm512_castsi128_si512(four));
      }
    });
  }

  template <int kQuad>
  [[gnu::always_inline]] __m512i levels(__m512i codes) const {
    return _mm512_shuffle_epi8(of[kQuad], _mm512_and_si512(codes, _mm512_set1_epi8((1 << kBits) - 1)));
  }
};

inline const int8_t* tables_of_group(const PackedDense& dense, int64_t panel, int64_t g) {
  return dense.level_tables + ((panel * dense.groups + g) * kLanes << dense.segments[0].bits);
}

inline int64_t padded_inputs(const PackedDense& dense) { return dense.groups * dense.group_steps * 4; }

// Registers [quarter][j] of quads q -> [quarter][q] of j, in dwords.
[[gnu::always_inline]] inline void transpose_quads(__m512i (&v)[kQuads]) {
  const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
  const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm512_unpacklo_epi64(a, c);
  v[1] = _mm512_unpackhi_epi64(a, c);
  v[2] = _mm512_unpacklo_epi64(b, d);
  v[3] = _mm512_unpackhi_epi64(b, d);
}

// r = y or bias, exact integer sums of tile [M][P] times scales, added up over groups in f.
template <int M, int P>
struct Few {
  const LinearArgs& args;
  int64_t m, panel;
  const PackedDense& dense = args.dense;
  const uint8_t* const x = args.rows.codes + m * args.rows.stride;

  // Panels that there are not read the last one.
  int64_t panel_at(int p) const { return smaller(panel + p, args.panel_end - 1); }
  const uint8_t* codes(int p) const {
    return static_cast<const uint8_t*>(dense.codes) + panel_at(p) * dense.panel_bytes;
  }

  // Asks for the lines that are read kAhead bytes later: where a panel is over by then, those of the panel which comes
  // after these.
  template <int kLines>
  [[gnu::always_inline]] void ask(const uint8_t* const (&at)[P]) const {
    const bool over = at[0] + kAhead >= codes(0) + dense.panel_bytes;
    const int64_t ahead = kAhead + (over ? (P - 1) * dense.panel_bytes : 0);
    unrolled<P * kLines>([&](auto i) __attribute__((always_inline)) {
      _mm_prefetch(reinterpret_cast<const char*>(at[i / kLines] + ahead + i % kLines * 64), _MM_HINT_T1);
    });
  }

  // Units of inputs [begin, end) with tables of columns, or levels.
  template <int kBits>
  [[gnu::noinline]] void columns(const CodedSegment& segment, int64_t begin, int64_t end,
                                 IntegerTile<M, P>& sums) const {
    IntegerTile<M, P> acc;
    unrolled<M * P>([&](auto i) __attribute__((always_inline)) { acc[i / P][i % P] = sums[i / P][i % P]; });
    const uint8_t* at[P];
    unrolled<P>([&](auto p) { at[p] = codes(p) + unit_offset(segment, begin); });
    const uint8_t* tokens = x + begin;
    for (int64_t k = begin; k < end; k += kUnitInputs, tokens += kUnitInputs) {
      ask<kBits>(at);
      unrolled<kLookups>([&](auto t) __attribute__((always_inline)) {
        __m512i inputs[M];
        unrolled<M>([&](auto j) __attribute__((always_inline)) {
          inputs[j] = broadcast4(tokens + j * args.rows.stride + 4 * t);
        });
        const auto multiply = [&](auto p, __m512i levels) __attribute__((always_inline)) {
          unrolled<M>([&](auto j) __attribute__((always_inline)) { dot4(acc[j][p], inputs[j], levels); });
        };
        if constexpr (kBits == 8) {
          unrolled<P>([&](auto p) __attribute__((always_inline)) { multiply(p, vector_of(at[p], t)); });
        } else {
          const ColumnTables<kBits> tables(dense.level_tables + (k / 4 + t) * 64);
          unrolled<P>([&](auto p) __attribute__((always_inline)) { multiply(p, tables(code_bytes<kBits, t>(at[p]))); });
        }
      });
      unrolled<P>([&](auto p) __attribute__((always_inline)) { at[p] += 64 * kBits; });
    }
    unrolled<M * P>([&](auto i) __attribute__((always_inline)) { sums[i / P][i % P] = acc[i / P][i % P]; });
  }

  // The units of a group, with tables of rows.
  template <int kBits>
  [[gnu::always_inline]] void rows(int64_t g, const uint8_t* (&at)[P], IntegerTile<M, P>& sums) const {
    __m512i acc[M * P * kQuads];
    unrolled<M * P * kQuads>([&](auto i) __attribute__((always_inline)) { acc[i] = _mm512_setzero_si512(); });
    RowTables<kBits> of[P];
    unrolled<P>([&](auto p) __attribute__((always_inline)) { of[p].load(tables_of_group(dense, panel_at(p), g)); });
    const uint8_t* tokens = x + g * dense.group_steps * 4;
    for (int64_t step = 0; step < dense.group_steps; step += kLookups, tokens += kUnitInputs) {
      ask<kBits>(at);
      unrolled<2>([&](auto half) __attribute__((always_inline)) {
        __m512i inputs[M];
        unrolled<M>([&](auto j) __attribute__((always_inline)) {
          inputs[j] = broadcast16(tokens + j * args.rows.stride + 16 * half);
        });
        unrolled<P * kQuads>([&](auto i) __attribute__((always_inline)) {
          constexpr int p = i / kQuads, q = i % kQuads;
          const __m512i levels = of[p].template levels<q>(code_bytes<kBits, half * kQuads + q>(at[p]));
          unrolled<M>([&](auto j)
                          __attribute__((always_inline)) { dot4(acc[(j * P + p) * kQuads + q], inputs[j], levels); });
        });
      });
      unrolled<P>([&](auto p) __attribute__((always_inline)) { at[p] += 64 * kBits; });
    }
    unrolled<M * P>([&](auto i) __attribute__((always_inline)) {
      __m512i quads[kQuads] = {acc[i * kQuads], acc[i * kQuads + 1], acc[i * kQuads + 2], acc[i * kQuads + 3]};
      transpose_quads(quads);
      sums[i / P][i % P] = _mm512_add_epi32(_mm512_add_epi32(quads[0], quads[1]), _mm512_add_epi32(quads[2], quads[3]));
    });
  }

  // f += scale * (sums - zero[m] * sum(levels))
  [[gnu::always_inline]] void fold(int64_t g, const IntegerTile<M, P>& sums, FloatTile<M, P>& f) const {
    unrolled<P>([&](auto p) __attribute__((always_inline)) {
      const int64_t entry = (panel_at(p) * dense.groups + g) * kLanes;
      const __m512 scale = group_scales(dense, entry);
      const __m512i levels = group_sums(dense, entry);
      unrolled<M>([&](auto j) __attribute__((always_inline)) {
        const __m512i by_zero = _mm512_mullo_epi32(levels, _mm512_set1_epi32(args.rows.zeros[m + j]));
        f[j][p] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[j][p], by_zero)), f[j][p]);
      });
    });
  }

  // y = scale[m] * f + r
  void finish(const FloatTile<M, P>& f) const {
    FloatTile<M, P> r;
    begin_outputs<M, P>(args, m, panel, r);
    for (int j = 0; j < M; ++j) {
      const __m512 scale = _mm512_set1_ps(args.rows.scales[m + j]);
      for (int p = 0; p < P; ++p) r[j][p] = _mm512_fmadd_ps(scale, f[j][p], r[j][p]);
    }
    store_outputs<M, P>(args, m, panel, r);
  }
};

template <int M, int P>
[[gnu::noinline]] void columns_tile(const LinearArgs& args, int64_t m, int64_t panel) {
  const Few<M, P> few{args, m, panel};
  IntegerTile<M, P> sums;
  for (int i = 0; i < M * P; ++i) sums[i / P][i % P] = _mm512_setzero_si512();
  each_segment(args.dense, 0, padded_inputs(args.dense), [&](const CodedSegment& segment, int64_t begin, int64_t end) {
    switch (segment.bits) {
      case 2: return few.template columns<2>(segment, begin, end, sums);
      case 3: return few.template columns<3>(segment, begin, end, sums);
      case 4: return few.template columns<4>(segment, begin, end, sums);
      default: return few.template columns<8>(segment, begin, end, sums);
    }
  });
  FloatTile<M, P> f{};
  few.fold(0, sums, f);
  few.finish(f);
}

template <int M, int P, int kBits>
[[gnu::noinline]] void rows_tile(const LinearArgs& args, int64_t m, int64_t panel) {
  const Few<M, P> few{args, m, panel};
  const uint8_t* at[P];
  for (int p = 0; p < P; ++p) at[p] = few.codes(p);
  FloatTile<M, P> f{};
  for (int64_t g = 0; g < args.dense.groups; ++g) {
    IntegerTile<M, P> sums;
    few.template rows<kBits>(g, at, sums);
    few.fold(g, sums, f);
  }
  few.finish(f);
}

template <int M, int P>
void rows_tiles(const LinearArgs& args, int64_t m) {
  for (int64_t panel = args.panel_begin; panel < args.panel_end; panel += P) switch (args.dense.segments[0].bits) {
      case 2: rows_tile<M, P, 2>(args, m, panel); break;
      case 3: rows_tile<M, P, 3>(args, m, panel); break;
      default: rows_tile<M, P, 4>(args, m, panel); break;
    }
}

// kWide: panels side by side, which share tables.
template <int M, int kWide>
void columns_tiles(const LinearArgs& args, int64_t m) {
  constexpr int kLast = kWide > 2 ? kWide / 2 : kWide;
  int64_t panel = args.panel_begin;
  for (; panel + kWide / 2 < args.panel_end; panel += kWide) columns_tile<M, kWide>(args, m, panel);
  for (; panel < args.panel_end; panel += kLast) columns_tile<M, kLast>(args, m, panel);
}

// Opening reads one stream, whose prefetcher stops at the end of every page: a unit's lines are asked for two pages
// ahead.
template <int kBits>
[[gnu::always_inline]] inline void ask_ahead(const uint8_t* unit) {
  unrolled<kBits>([&](auto i) __attribute__((always_inline)) {
    _mm_prefetch(reinterpret_cast<const char*>(unit + 8192 + 64 * i), _MM_HINT_T0);
  });
}

template <int kBits>
void open_columns(const uint8_t* units, const int8_t* tables, int64_t count, int8_t* to) {
  for (; count > 0; --count, units += 64 * kBits) {
    ask_ahead<kBits>(units);
    unrolled<kLookups>([&](auto t) __attribute__((always_inline)) {
      if constexpr (kBits == 8) {
        _mm512_storeu_si512(to, vector_of(units, t));
      } else {
        _mm512_storeu_si512(to, ColumnTables<kBits>(tables)(code_bytes<kBits, t>(units)));
        tables += 64;
      }
      to += 64;
    });
  }
}

template <int kBits>
void open_rows(const PackedDense& dense, int64_t panel, const uint8_t* units, int8_t* to) {
  for (int64_t g = 0; g < dense.groups; ++g) {
    RowTables<kBits> tables;
    tables.load(tables_of_group(dense, panel, g));
    for (int64_t step = 0; step < dense.group_steps; step += kLookups, units += 64 * kBits) {
      ask_ahead<kBits>(units);
      unrolled<2>([&](auto half) __attribute__((always_inline)) {
        __m512i quads[kQuads];
        unrolled<kQuads>([&](auto q) __attribute__((always_inline)) {
          quads[q] = tables.template levels<q>(code_bytes<kBits, half * kQuads + q>(units));
        });
        transpose_quads(quads);
        unrolled<kQuads>([&](auto j) __attribute__((always_inline)) {
          _mm512_storeu_si512(to, quads[j]);
          to += 64;
        });
      });
    }
  }
}

}  // namespace

void linear_coded_a8(const LinearArgs& args) {
  using Tiles = void (*)(const LinearArgs&, int64_t m);
  static constexpr Tiles kColumns[] = {columns_tiles<1, 8>, columns_tiles<2, 8>, columns_tiles<3, 4>,
                                       columns_tiles<4, 4>, columns_tiles<5, 2>, columns_tiles<6, 2>,
                                       columns_tiles<7, 2>, columns_tiles<8, 2>};
  static constexpr Tiles kRows[] = {rows_tiles<1, 2>, rows_tiles<2, 1>, rows_tiles<3, 1>, rows_tiles<4, 1>};
  const bool columns = args.dense.tables_of == CodedTables::columns;
  const int64_t most = columns ? 8 : 4, tokens = args.m_end - args.m_begin, tiles = (tokens + most - 1) / most;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t begin = tokens * i / tiles, count = tokens * (i + 1) / tiles - begin;
    (columns ? kColumns : kRows)[count - 1](args, args.m_begin + begin);
  }
}

void open_levels(const PackedDense& dense, int64_t panel, int8_t* to) {
  const auto* const codes = static_cast<const uint8_t*>(dense.codes) + panel * dense.panel_bytes;
  if (dense.tables_of == CodedTables::rows) switch (dense.segments[0].bits) {
      case 2: return open_rows<2>(dense, panel, codes, to);
      case 3: return open_rows<3>(dense, panel, codes, to);
      default: return open_rows<4>(dense, panel, codes, to);
    }
  each_segment(dense, 0, padded_inputs(dense), [&](const CodedSegment& segment, int64_t begin, int64_t end) {
    const uint8_t* const units = codes + segment.offset;
    const int8_t* const tables = dense.level_tables + begin * kLanes;
    int8_t* const out = to + begin * kLanes;
    switch (segment.bits) {
      case 2: return open_columns<2>(units, tables, (end - begin) / kUnitInputs, out);
      case 3: return open_columns<3>(units, tables, (end - begin) / kUnitInputs, out);
      case 4: return open_columns<4>(units, tables, (end - begin) / kUnitInputs, out);
      default: return open_columns<8>(units, tables, (end - begin) / kUnitInputs, out);
    }
  });
}

}  // namespace nibble::avx512
