// Coded weights times float32 input, one token: linear_coded. More tokens: linear_float.cpp.
//
// A code is an index of vpermps, which reads four bits of it: for 16 weights one shift, one lookup, one multiply-add on
// two ports. With 2 bits the two inputs of a pair share a shift. Codes of more bits find words, 32 at a time, which are
// widened: with the scale 10 operations for 32 weights of 5 and 6 bits, 12 of 8, 10 where these are integers. Eight
// panels side by side share the tables of their columns; a table of rows, wide columns, and an input beside whole units
// are opened first.
#include "kernels/avx512/coded.h"
#include "kernels/avx512/rows.h"

namespace nibble::avx512 {
namespace {

[[gnu::always_inline]] inline void multiply_add(__m512& acc, __m512 x, __m512 w) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
}

// In assembly so that the compiler reads the codes again from the first cache rather than keep them for the next
// lookups, for which it has no registers.
template <int kShift>
[[gnu::always_inline]] inline __m512i shifted(const uint8_t* codes) {
  __m512i out;
  if constexpr (kShift == 0) {
    asm("vmovdqu64 %1, %0" : "=v"(out) : "m"(*reinterpret_cast<const __m512i_u*>(codes)));
  } else if constexpr (kShift == 16) {  // what is above the index belongs to the next lane
    asm("vmovdqu64 %1, %0" : "=v"(out) : "m"(*reinterpret_cast<const __m512i_u*>(codes + 2)));
  } else {
    asm("vpsrld %2, %1, %0" : "=v"(out) : "m"(*reinterpret_cast<const __m512i_u*>(codes)), "i"(kShift));
  }
  return out;
}

// Sixteen bf16 as float32.
inline __m512 wide_table(const uint16_t* table) {
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(table)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

// The tables of a pair of columns, of the first and the second.
template <int kBits>
[[gnu::always_inline]] inline void pair_tables(const uint16_t* tables, __m512 (&to)[2]) {
  if constexpr (kBits == 2) {
    const __m512i pairs = _mm512_loadu_si512(tables);
    to[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    to[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
  } else {
    to[0] = wide_table(tables);
    to[1] = wide_table(tables + 16);
  }
}

// The place in its words of a lookup, but for the last one with 3 bits.
constexpr int kScattered = -1;

// Indices of a lookup in a vector of codes (in a unit, where they are scattered), of the first and the second input;
// with 2 bits and tables of columns one index for both.
template <int kBits, int kPlace>
[[gnu::always_inline]] inline void indices(const uint8_t* codes, __m512i& first, __m512i& second) {
  if constexpr (kPlace == kScattered) {
    first = last_code_words(codes);
    second = _mm512_srli_epi32(first, 16);
  } else if constexpr (kBits == 2) {
    first = second = shifted<kPlace * 4>(codes);
  } else {
    first = shifted<kPlace * kBits>(codes);
    second = shifted<16 + kPlace * kBits>(codes);
  }
}

constexpr int64_t kAhead = 2048;  // bytes of a panel

template <int M, int P>
struct Few {
  const LinearArgs& args;
  int64_t m, panel;
  FloatTile<M, P>& tile;
  const PackedDense& dense = args.dense;
  const float* x = args.x + m * args.x_stride;

  // Panels that there are not read the last one.
  const uint8_t* codes(int p) const {
    return static_cast<const uint8_t*>(dense.codes) + smaller(panel + p, args.panel_end - 1) * dense.panel_bytes;
  }

  // Whole units [begin, end).
  template <int kBits, bool kColumns>
  void multiply(const CodedSegment& segment, int64_t begin, int64_t end) const {
    constexpr int kInWord = 16 / kBits;  // lookups
    FloatTile<M, P> acc;
    load<M, P>(tile, acc);
    const uint8_t* at[P];
    unrolled<P>([&](auto p) { at[p] = codes(p) + unit_offset(segment, begin); });
    const __m512 table = kColumns ? __m512() : wide_table(dense.tables);
    __m512 scales[P];
    // A lookup in the vector of codes at this offset, for inputs k and k + 1.
    const auto look_up = [&]<int kPlace>(int64_t offset, int64_t k) __attribute__((always_inline)) {
      __m512 tables[2] = {table, table};
      if constexpr (kColumns) pair_tables<kBits>(dense.tables + k * 16, tables);
      unrolled<P>([&](auto p) __attribute__((always_inline)) {
        __m512i index[2];
        indices<kBits, kPlace>(at[p] + offset, index[0], index[1]);
        unrolled<2>([&](auto i) __attribute__((always_inline)) {
          __m512 w = _mm512_permutexvar_ps(index[i], tables[i]);
          if constexpr (!kColumns) w = _mm512_mul_ps(w, scales[p]);
          unrolled<M>([&](auto j) __attribute__((always_inline)) {
            multiply_add(acc[j][p], _mm512_set1_ps(x[j * args.x_stride + k + i]), w);
          });
        });
      });
    };
    for (int64_t unit = begin; unit < end; unit += kUnitInputs) {
      int64_t k = unit;
      for (int64_t i = 0; i < kBits; ++i) {
        unrolled<P>([&](auto p) __attribute__((always_inline)) {
          _mm_prefetch(reinterpret_cast<const char*>(at[p] + kAhead + 64 * i), _MM_HINT_T1);
        });
        if (!kColumns && i % 2 == 0)
          for (int p = 0; p < P; ++p) scales[p] = block_scales(dense, smaller(panel + p, args.panel_end - 1), k);
        unrolled<kInWord>([&](auto place) __attribute__((always_inline)) {
          look_up.template operator()<place>(64 * i, k + place * 2);
        });
        k += kInWord * 2;
      }
      if constexpr (kBits == 3) look_up.template operator()<kScattered>(0, k);
      unrolled<P>([&](auto p) __attribute__((always_inline)) { at[p] += 64 * kBits; });
    }
    store<M, P>(acc, tile);
  }

  // Whole units [begin, end) of levels of the matrix. scales_at(dense, panel, k): of a block.
  template <bool kScaled, class Levels, class ScalesAt>
  void multiply_matrix(const Levels& levels, const CodedSegment& segment, int64_t begin, int64_t end,
                       const ScalesAt& scales_at) const {
    FloatTile<M, P> acc;
    load<M, P>(tile, acc);
    const uint8_t* at[P];
    unrolled<P>([&](auto p) { at[p] = codes(p) + unit_offset(segment, begin); });
    for (int64_t k = begin; k < end; k += kUnitInputs) {
      unrolled<2>([&](auto half) __attribute__((always_inline)) {
        __m512 scales[P];
        unrolled<P>([&](auto p) __attribute__((always_inline)) {
          unrolled<Levels::kWidth / 2>([&](auto i) __attribute__((always_inline)) {
            _mm_prefetch(reinterpret_cast<const char*>(at[p] + kAhead + 64 * (half * (Levels::kWidth / 2) + i)),
                         _MM_HINT_T0);
          });
          if constexpr (kScaled) scales[p] = scales_at(dense, smaller(panel + p, args.panel_end - 1), k + 16 * half);
        });
        unrolled<8>([&](auto pair) __attribute__((always_inline)) {
          constexpr int kLookup = half * 8 + pair;
          unrolled<P>([&](auto p) __attribute__((always_inline)) {
            __m512 w[2];
            levels.template levels<kLookup>(at[p], w);
            unrolled<2>([&](auto j) __attribute__((always_inline)) {
              if constexpr (kScaled) w[j] = _mm512_mul_ps(w[j], scales[p]);
              unrolled<M>([&](auto i) __attribute__((always_inline)) {
                multiply_add(acc[i][p], _mm512_set1_ps(x[i * args.x_stride + k + 2 * kLookup + j]), w[j]);
              });
            });
          });
        });
      });
      unrolled<P>([&](auto p) __attribute__((always_inline)) { at[p] += 64 * Levels::kWidth; });
    }
    store<M, P>(acc, tile);
  }

  template <int kBits>
  void multiply_levels(const CodedSegment& segment, int64_t begin, int64_t end) const {
    const TableLevels<kBits> levels(dense);
    if (dense.scales == nullptr) return multiply_matrix<false>(levels, segment, begin, end, block_scales);
    multiply_matrix<true>(levels, segment, begin, end, block_scales);
  }

  // More than 4 bits.
  void wide_segment(const CodedSegment& segment, int64_t begin, int64_t end) const {
    const int64_t whole = begin + (end - begin) / kUnitInputs * kUnitInputs;
    if (dense.tables_of == CodedTables::columns) return open(begin, end);
    if (dense.integer_codes) {
      multiply_matrix<true>(IntegerLevels(), segment, begin, whole, integer_scales);
    } else if (segment.bits == 5) {
      multiply_levels<5>(segment, begin, whole);
    } else if (segment.bits == 6) {
      multiply_levels<6>(segment, begin, whole);
    } else {
      multiply_levels<8>(segment, begin, whole);
    }
    open(whole, end);
  }

  // Inputs [begin, end) that lie as pairs, `stride` values from panel to panel.
  void multiply_pairs(const uint16_t* pairs, int64_t stride, int64_t begin, int64_t end) const {
    FloatTile<M, P> acc;
    load<M, P>(tile, acc);
    for (int64_t k = begin; k < end; k += 2, pairs += 2 * kLanes) {
      const bool both = k + 1 < end;
      __m512 x0[M], x1[M];
      for (int j = 0; j < M; ++j) {
        x0[j] = _mm512_set1_ps(x[j * args.x_stride + k]);
        x1[j] = _mm512_set1_ps(both ? x[j * args.x_stride + k + 1] : 0.0f);
      }
      unrolled<P>([&](auto p) __attribute__((always_inline)) {
        const __m512i words = _mm512_loadu_si512(pairs + p * stride);
        const __m512 w0 = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
        const __m512 w1 = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(-65536)));
        unrolled<M>([&](auto j) __attribute__((always_inline)) { multiply_add(acc[j][p], x0[j], w0); });
        if (both) unrolled<M>([&](auto j) __attribute__((always_inline)) { multiply_add(acc[j][p], x1[j], w1); });
      });
    }
    store<M, P>(acc, tile);
  }

  void open(int64_t begin, int64_t end) const {
    constexpr int64_t kInputs = 64;  // 16 KiB of eight panels
    alignas(64) uint16_t scratch[P * kInputs * kLanes];
    for (; begin < end; begin += kInputs) {
      const int64_t until = smaller(end, begin + kInputs);
      for (int p = 0; p < P; ++p)
        args.open(dense, smaller(panel + p, args.panel_end - 1), begin, until, scratch + p * kInputs * kLanes);
      multiply_pairs(scratch, kInputs * kLanes, begin, until);
    }
  }

  template <int kBits>
  void segment(const CodedSegment& segment, int64_t begin, int64_t end) const {
    const int64_t whole = begin + (end - begin) / kUnitInputs * kUnitInputs;
    if (dense.tables_of == CodedTables::columns) {
      multiply<kBits, true>(segment, begin, whole);
      return open(whole, end);
    }
    if constexpr (kBits == 4) {
      if (dense.tables_of == CodedTables::matrix) {
        if (dense.scales == nullptr) {
          multiply_levels<kBits>(segment, begin, whole);
        } else {
          multiply<kBits, false>(segment, begin, whole);
        }
        return open(whole, end);
      }
    }
    open(begin, end);
  }
};

template <int M, int P>
[[gnu::noinline]] void tile(const LinearArgs& args, int64_t m, int64_t panel) {
  FloatTile<M, P> sums;
  begin_outputs<M, P>(args, m, panel, sums);
  const Few<M, P> few{args, m, panel, sums};
  each_segment(args.dense, 0, args.dense.k, [&](const CodedSegment& segment, int64_t begin, int64_t end) {
    switch (segment.bits) {
      case 2: return few.template segment<2>(segment, begin, end);
      case 3: return few.template segment<3>(segment, begin, end);
      case 4: return few.template segment<4>(segment, begin, end);
      default: return few.wide_segment(segment, begin, end);
    }
  });
  store_outputs<M, P>(args, m, panel, sums);
}

}  // namespace

void linear_coded(const LinearArgs& args) {
  const int64_t count = args.m_end - args.m_begin;
  if (count > 1) return linear_coded_blocks(args);
  if (count <= 0) return;
  int64_t panel = args.panel_begin;
  for (; panel + 4 < args.panel_end; panel += 8) tile<1, 8>(args, args.m_begin, panel);
  for (; panel < args.panel_end; panel += 4) tile<1, 4>(args, args.m_begin, panel);
}

}  // namespace nibble::avx512
