// Block layouts times records: linear_b4, linear_b5, linear_b6, linear_b8.
//
// vpmaddubsw multiplies unsigned bytes, here levels + 64, with the signed codes of activations and adds pairs into
// int16, where 2 * 128 * 128 fits but for +2^15, which no level of up to 6 bits reaches; vpmaddwd widens them. Levels
// of 8 bits are widened to int16 first, even and odd bytes apart.
//
// A tile is 4 tokens x 1 panel, half by half: registers 4 sums, 4 outputs, 2 weights, 2 inputs, 2 constants of 16. The
// bytes of 256 inputs are made once for all tiles of a panel, which stays in the nearest cache.
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"

namespace nibble::avx2 {
namespace {

constexpr int64_t kTile = 4, kRangeInputs = 1024, kRestingTiles = 64;

inline __m256i broadcast4(const uint8_t* codes) {
  int32_t word;
  __builtin_memcpy(&word, codes, sizeof word);
  return _mm256_set1_epi32(word);
}

inline __m256i quarter_table(const uint8_t* levels) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)));
}

inline __m256i bytes(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }

// The bytes, level + 128, of lanes 8 h .. 8 h + 7 of step s.
template <int kBits>
struct Stored {
  static constexpr int64_t kChunk = 32 * kBits;

  explicit Stored(const PackedDense& dense) : ascending(dense.ascending), least(bytes(dense.levels[0])) {
    for (int i = 0; i < 4; ++i) tables[i] = quarter_table(dense.levels + 16 * i);
  }

  __m256i step(const uint8_t* chunk, int s, int h) const {
    if constexpr (kBits == 8) {
      return load_bytes(chunk + 64 * s + 32 * h);
    } else {
      const __m256i both = load_bytes(chunk + 64 * (s / 2) + 32 * h);
      const __m256i low = _mm256_and_si256(_mm256_srl_epi16(both, _mm_cvtsi32_si128(4 * (s % 2))), bytes(15));
      if constexpr (kBits == 4) return _mm256_shuffle_epi8(tables[0], low);
      // Bit 4 (and 5) at the bottom of the byte.
      const __m256i stored = load_bytes(chunk + 128 + (kBits == 6 ? 32 * h : 0));
      const __m256i upper = _mm256_and_si256(
          _mm256_srl_epi16(stored, _mm_cvtsi32_si128(kBits == 6 ? 2 * s : 4 * h + s)), bytes(kBits == 6 ? 3 : 1));
      if (ascending) return _mm256_add_epi8(_mm256_add_epi8(low, _mm256_slli_epi16(upper, 4)), least);
      __m256i level = _mm256_shuffle_epi8(tables[0], low);
      for (int i = 1; i < 4; ++i)
        level = _mm256_blendv_epi8(level, _mm256_shuffle_epi8(tables[i], low), _mm256_cmpeq_epi8(upper, bytes(i)));
      return level;
    }
  }

  bool ascending;
  __m256i least, tables[4];
};
template <>
Stored<8>::Stored(const PackedDense&) : ascending(true) {}

inline __m256 scales_of(const PackedDense& dense, const uint8_t* from) {
  const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  if (dense.e4m3) return _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(eight), 7));
  const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu8_epi32(eight), 23);
  return _mm256_castsi256_ps(_mm256_max_epi32(bits, _mm256_set1_epi32(1 << 22)));  // 2^-127 is subnormal
}

// Levels + 64, for up to 6 bits.
struct Narrow {
  static constexpr int64_t kStepBytes = 64;  // of 16 lanes
  static void make(__m256i level, int h, uint8_t* to) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + 32 * h), _mm256_sub_epi8(level, bytes(64)));
  }
  template <int M>
  [[gnu::always_inline]] static void multiply(const uint8_t* weights, int h, const uint8_t* codes, int64_t stride,
                                              __m256i (&acc)[M]) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i w = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights + 32 * h));
    for (int i = 0; i < M; ++i) {
      const __m256i pairs = _mm256_maddubs_epi16(w, broadcast4(codes + i * stride));
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs, ones));
    }
  }
  // 64 times the sum of codes, of which `start` has 128 times.
  static int32_t excess(int32_t start) { return (kBlockStart - start) / 2; }
};

// Levels in 16 bits, those of even and of odd inputs apart.
struct Wide {
  static constexpr int64_t kStepBytes = 128;
  static void make(__m256i level, int h, uint8_t* to) {
    const __m256i w = _mm256_xor_si256(level, bytes(-128));
    auto* const at = reinterpret_cast<__m256i*>(to + 64 * h);
    _mm256_store_si256(at, _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
    _mm256_store_si256(at + 1, _mm256_srai_epi16(w, 8));
  }
  template <int M>
  [[gnu::always_inline]] static void multiply(const uint8_t* weights, int h, const uint8_t* codes, int64_t stride,
                                              __m256i (&acc)[M]) {
    const auto* const at = reinterpret_cast<const __m256i*>(weights + 64 * h);
    const __m256i even = _mm256_load_si256(at), odd = _mm256_load_si256(at + 1);
    for (int i = 0; i < M; ++i) {
      const __m256i x = broadcast4(codes + i * stride);
      const __m256i from_even = _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), even);
      const __m256i from_odd = _mm256_madd_epi16(_mm256_srai_epi16(x, 8), odd);
      acc[i] = _mm256_add_epi32(_mm256_add_epi32(acc[i], from_even), from_odd);
    }
  }
  static int32_t excess(int32_t) { return 0; }
};

template <int kBits, class Width>
struct Blocks {
  struct Scratch {
    alignas(32) uint8_t weights[kRangeInputs / 4 * Width::kStepBytes];
    alignas(32) float scales[kRangeInputs / kChunkInputs * kLanes];
    FloatTile<kTile> outputs[kRestingTiles];
  };
  // Blocks [begin, begin + blocks) of one panel.
  struct Range {
    const LinearArgs& args;
    Scratch& scratch;
    int64_t panel, begin, blocks;
  };

  static void make(const Range& range) {
    const PackedDense& dense = range.args.dense;
    const Stored<kBits> stored(dense);
    const int64_t chunks = dense.group_steps / kChunkSteps, at = range.panel * dense.groups + range.begin;
    const uint8_t* chunk = static_cast<const uint8_t*>(dense.codes) + at * chunks * stored.kChunk;
    uint8_t* to = range.scratch.weights;
    for (int64_t i = 0; i < range.blocks * chunks; ++i, chunk += stored.kChunk)
      for (int s = 0; s < kChunkSteps; ++s, to += Width::kStepBytes)
        for (int h = 0; h < kHalves; ++h) Width::make(stored.step(chunk, s, h), h, to);
    const uint8_t* const scales = static_cast<const uint8_t*>(dense.scales) + at * kLanes;
    for (int64_t i = 0; i < range.blocks * kLanes; i += 8)
      _mm256_store_ps(range.scratch.scales + i, scales_of(dense, scales + i));
  }

  template <int M>
  [[gnu::noinline]] static void tile(const Range& range, int64_t m, FloatTile<kTile>& resting) {
    const LinearArgs& args = range.args;
    const int64_t block = args.dense.group_size, record = block + static_cast<int64_t>(sizeof(BlockTail));
    const int64_t stride = args.rows.stride;
    for (int h = 0; h < kHalves; ++h) {
      __m256 f[M];
      for (int i = 0; i < M; ++i) f[i] = range.begin == 0 ? _mm256_setzero_ps() : resting[i][h];
      const uint8_t* codes = args.rows.codes + m * stride + range.begin * record;
      const uint8_t* weights = range.scratch.weights;
      for (int64_t b = 0; b < range.blocks; ++b, codes += record) {
        __m256i acc[M] = {};
        for (int64_t k = 0; k < block; k += 4, weights += Width::kStepBytes)
          Width::template multiply<M>(weights, h, codes + k, stride, acc);
        const __m256 scale = _mm256_load_ps(range.scratch.scales + b * kLanes + 8 * h);
        for (int i = 0; i < M; ++i) {
          BlockTail tail;
          __builtin_memcpy(&tail, codes + i * stride + block, sizeof tail);
          const __m256i exact = _mm256_sub_epi32(acc[i], _mm256_set1_epi32(Width::excess(tail.start)));
          const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(exact), _mm256_set1_ps(tail.scale));
          f[i] = _mm256_fmadd_ps(value, scale, f[i]);
        }
      }
      for (int i = 0; i < M; ++i) resting[i][h] = f[i];
    }
    if (range.begin + range.blocks == args.dense.groups) finish<M>(args, m, range.panel, resting);
  }

  // y = scale[m] * factor * f + r
  template <int M>
  static void finish(const LinearArgs& args, int64_t m, int64_t panel, const FloatTile<kTile>& f) {
    FloatTile<M> r;
    begin_outputs<M>(args, m, panel, r);
    for (int i = 0; i < M; ++i) {
      const __m256 scale = _mm256_set1_ps(args.rows.scales[m + i] * args.dense.factor);
      for (int h = 0; h < kHalves; ++h) r[i][h] = _mm256_fmadd_ps(scale, f[i][h], r[i][h]);
    }
    store_outputs<M>(args, m, panel, r);
  }

  using Tile = void (*)(const Range&, int64_t, FloatTile<kTile>&);

  static void run_tiles(const Range& range, int64_t begin, int64_t end) {
    static constexpr Tile kTiles[] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>};
    for (int64_t m = begin; m < end; m += kTile)
      kTiles[smaller(kTile, end - m)](range, m, range.scratch.outputs[(m - begin) / kTile]);
  }

  static void run(const LinearArgs& args) {
    Scratch scratch;
    const int64_t groups = args.dense.groups, step = kRangeInputs / args.dense.group_size;
    for (int64_t m = args.m_begin; m < args.m_end; m += kRestingTiles * kTile)
      for (int64_t panel = args.panel_begin; panel < args.panel_end; ++panel)
        for (int64_t begin = 0; begin < groups || begin == 0; begin += step) {
          const Range range{args, scratch, panel, begin, smaller(step, groups - begin)};
          make(range);
          run_tiles(range, m, smaller(m + kRestingTiles * kTile, args.m_end));
        }
  }
};

}  // namespace

void linear_b4(const LinearArgs& args) { Blocks<4, Narrow>::run(args); }
void linear_b5(const LinearArgs& args) { Blocks<5, Narrow>::run(args); }
void linear_b6(const LinearArgs& args) { Blocks<6, Narrow>::run(args); }
void linear_b8(const LinearArgs& args) { Blocks<8, Wide>::run(args); }

}  // namespace nibble::avx2
