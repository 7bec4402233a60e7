// Attention in tiles of up to 12 queries. Three phases over the context: scores, exponentials, weighted values; in the
// first and the last a page of 64 positions is read once for all queries, from the L1 cache but for the first tile.
//
// Registers, scores: 12 queries x 2 panels of keys = 24 sums, 2 keys, broadcast queries (8 x 2, 4 x 4 and 1 x 4 for few
// queries). Values: 12 queries x 32 outputs = 24 sums, 2 values, broadcast weights (8 x 32, 4 x 64, 1 x 128); the sums
// wait in scratch between pages. What queries of a tile see in common they sum together, the rest one by one, so that
// no query ever touches a position beyond its own.
#include "kernels/avx512/intrinsics.h"

#include "kernels/avx512/codes.h"
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
namespace {

struct F32 {
  using Value = float;
  static __m512 load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, __m512 v) { _mm512_storeu_ps(p, v); }
};

struct F16 {
  using Value = uint16_t;
  static __m512 load(const uint16_t* p) { return load_f16(p); }
  static void store(uint16_t* p, __m512 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

struct Bf16 {
  using Value = uint16_t;
  static __m512 load(const uint16_t* p) { return load_bf16(p); }
  static void store(uint16_t* p, __m512 v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(v)); }
};

// Lane l += lane l + 8, + 4, + 2, + 1.
inline float add_lanes(__m512 v) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}

inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);  // the second operand, so that NaN stays NaN
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
  __m512 e = _mm512_set1_ps(1.0f / 5040);
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 720));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 120));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 24));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f / 6));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0.5f));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
  e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(e, n);
}

// Queries of a call, `width` registers wide: what is beyond `rows` repeats the last one.
struct Tile {
  const AttentionQuery* queries;
  int rows, width;
  float* q;         // [head_dim][width]; then totals [width]
  float* y;         // [width][value_stride]: sums
  float* most;      // [width][16]: greatest score so far, by lane
  float* scores;    // [panel][width][16]
  int64_t shared;   // positions that all queries see
  int64_t longest;  // that some query sees
};

// Asks for kBytes that will be read soon, as far as the second-level cache.
template <int64_t kBytes>
[[gnu::always_inline]] inline void prefetch(const void* from) {
  for (int64_t at = 0; at < kBytes; at += 64) _mm_prefetch(static_cast<const char*>(from) + at, _MM_HINT_T1);
}

// Keys or values of a run of positions, and as many that come next.
template <class Cache>
struct Source {
  const typename Cache::Value *here, *ahead;
  Source operator+(int64_t offset) const { return {here + offset, ahead + offset}; }
};

// a[r][p] = q[r] . key, a lane for each position of P panels; meanwhile as much is fetched from `ahead`.
template <class Cache, int R, int P>
[[gnu::always_inline]] inline void multiply_keys(const float* q, Source<Cache> keys, int64_t head_dim,
                                                 __m512 (&a)[R][P]) {
  __m512 acc[R][P];
  unrolled<R>([&](auto r) { unrolled<P>([&](auto p) { acc[r][p] = _mm512_setzero_ps(); }); });
  for (int64_t d = 0; d < head_dim; ++d) {
    prefetch<P * kKeyPanel * sizeof(*keys.here)>(keys.ahead + d * P * kKeyPanel);
    __m512 key[P];
    unrolled<P>([&](auto p) { key[p] = Cache::load(keys.here + (p * head_dim + d) * kKeyPanel); });
    unrolled<R>([&](auto r) {
      const __m512 value = _mm512_set1_ps(q[d * R + r]);
      unrolled<P>([&](auto p) { acc[r][p] = _mm512_fmadd_ps(value, key[p], acc[r][p]); });
    });
  }
  unrolled<R>([&](auto r) { unrolled<P>([&](auto p) { a[r][p] = acc[r][p]; }); });
}

// Scores of positions [j, j + 16 P), and what they add to the greatest ones. Lanes beyond a query's position are
// written, but neither read nor counted.
template <class Cache, int R, int P>
void score_panels(const Tile& t, Source<Cache> keys, int64_t head_dim, float scale, int64_t j) {
  __m512 a[R][P];
  multiply_keys<Cache, R, P>(t.q, keys, head_dim, a);
  const __m512i position = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(j)),
                                            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  const __m512 factor = _mm512_set1_ps(scale);
  unrolled<R>([&](auto r) {
    const AttentionQuery& query = t.queries[r < t.rows ? r : t.rows - 1];
    const __m512i last = _mm512_set1_epi32(static_cast<int>(query.position));
    __m512 most = _mm512_load_ps(t.most + 16 * r);
    unrolled<P>([&](auto p) {
      const __mmask16 seen = _mm512_cmple_epi32_mask(_mm512_add_epi32(position, _mm512_set1_epi32(16 * p)), last);
      __m512 x = _mm512_mul_ps(factor, a[r][p]);
      if (query.bias != nullptr) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(seen, query.bias + j + 16 * p));
      _mm512_store_ps(t.scores + (j + 16 * p) * R + 16 * r, x);
      most = _mm512_mask_max_ps(most, seen, most, x);
    });
    _mm512_store_ps(t.most + 16 * r, most);
  });
}

// y[r][16 i ..] += sum over j in [begin, end) of p[j] * values[j], in R x D registers; s is the first query's first
// score of the block, queries 16 floats apart, panels s_stride.
template <class Cache, int R, int D>
void weigh_values(const float* s, int64_t s_stride, Source<Cache> values, int64_t value_stride, int64_t begin,
                  int64_t end, float* y) {
  __m512 acc[R][D];
  unrolled<R>([&](auto r) { unrolled<D>([&](auto i) { acc[r][i] = _mm512_load_ps(y + r * value_stride + 16 * i); }); });
  for (int64_t j = begin; j < end;) {
    const int64_t panel = j / kKeyPanel, stop = smaller(end, (panel + 1) * kKeyPanel);
    const float* p = s + panel * s_stride + j % kKeyPanel;
    const typename Cache::Value *v = values.here + j * value_stride, *ahead = values.ahead + j * value_stride;
    for (; j < stop; ++j, ++p, v += value_stride, ahead += value_stride) {
      prefetch<16 * D * sizeof(*ahead)>(ahead);
      __m512 value[D];
      unrolled<D>([&](auto i) { value[i] = Cache::load(v + 16 * i); });
      unrolled<R>([&](auto r) {
        const __m512 weight = _mm512_set1_ps(p[r * kKeyPanel]);
        unrolled<D>([&](auto i) { acc[r][i] = _mm512_fmadd_ps(weight, value[i], acc[r][i]); });
      });
    }
  }
  unrolled<R>([&](auto r) { unrolled<D>([&](auto i) { _mm512_store_ps(y + r * value_stride + 16 * i, acc[r][i]); }); });
}

// All outputs, in strips of D vectors while they last, then of half as many.
template <class Cache, int R, int D>
void weigh_strips(const float* s, int64_t s_stride, Source<Cache> values, int64_t value_stride, int64_t begin,
                  int64_t end, float* y, int64_t from = 0) {
  for (; from + 16 * D <= value_stride; from += 16 * D)
    weigh_values<Cache, R, D>(s, s_stride, values + from, value_stride, begin, end, y + from);
  if constexpr (D > 1) weigh_strips<Cache, R, D / 2>(s, s_stride, values, value_stride, begin, end, y, from);
}

// Scores to weights, from the first position to `seen`, zeros to the end of the panel; returns their sum.
inline float exponentiate(float* s, int64_t stride, int64_t seen, float greatest) {
  const __m512 most = _mm512_set1_ps(greatest);
  __m512 total = _mm512_setzero_ps();
  for (; seen >= kKeyPanel; seen -= kKeyPanel, s += stride) {
    const __m512 p = exponential(_mm512_sub_ps(_mm512_load_ps(s), most));
    _mm512_store_ps(s, p);
    total = _mm512_add_ps(total, p);
  }
  if (seen > 0) {
    const __m512 p = _mm512_maskz_mov_ps(first_lanes(seen), exponential(_mm512_sub_ps(_mm512_load_ps(s), most)));
    _mm512_store_ps(s, p);
    total = _mm512_add_ps(total, p);
  }
  return add_lanes(total);
}

// Sixteen values i .. of the two halves of x, rotated. What is beyond `half` is zero.
struct Turned {
  __m512 low, high;
};
inline Turned turn(const float* x, const RotaryTables& angles, int64_t position, int64_t half, int64_t i) {
  const __mmask16 lanes = first_lanes(half - i);
  const __m512 c = _mm512_maskz_loadu_ps(lanes, angles.cosines + position * half + i);
  const __m512 s = _mm512_maskz_loadu_ps(lanes, angles.sines + position * half + i);
  const __m512 a = _mm512_maskz_loadu_ps(lanes, x + i), b = _mm512_maskz_loadu_ps(lanes, x + half + i);
  return {_mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)), _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s))};
}

// x, or in `to` its rotation to `position`.
const float* rotated(const float* x, const RotaryTables& angles, int64_t position, int64_t head_dim, float* to) {
  if (angles.cosines == nullptr) return x;
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i += 16) {
    const Turned turned = turn(x, angles, position, half, i);
    _mm512_mask_storeu_ps(to + i, first_lanes(half - i), turned.low);
    _mm512_mask_storeu_ps(to + half + i, first_lanes(half - i), turned.high);
  }
  return to;
}

// Sixteen values rounded to bfloat16; zeros from the `count`th on.
inline __m512 to_bf16_number(const float* x, int64_t count) {
  const __m256i halves = to_bf16(_mm512_maskz_loadu_ps(first_lanes(count), x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline const uint16_t* tail_row(const CachedHead& head, int64_t j) {
  return head.tail + j % head.tail_rows * head.value_stride;
}

// Where the floats of half a page come from, run by run: as they are, or opened into `room`, [32][value_stride].
constexpr int64_t kHalfPage = kPagePositions / 2;

// One type of floats. A single tile reads the cache as it is; for several it is first widened to float32, which pays
// for every tile but the first and leaves room in the L1 cache.
template <class Cache>
struct FloatCache {
  using Value = typename Cache::Value;
  const CachedHead& head;
  float* const room;

  const Value* keys(int64_t j) const {
    return reinterpret_cast<const Value*>(head.pages[j / kPagePositions] + head.keys) +
           j % kPagePositions * head.head_dim;
  }
  const Value* values(int64_t j) const {
    return reinterpret_cast<const Value*>(head.pages[j / kPagePositions] + head.values) +
           j % kPagePositions * head.value_stride;
  }
  Source<F32> widened(const float* from, const float* next, int64_t) const { return {from, next}; }
  Source<F32> widened(const uint16_t* from, const uint16_t* next, int64_t width) const {
    for (int64_t i = 0; i < kHalfPage * width; i += 16) {
      prefetch<32>(next + i);
      _mm512_store_ps(room + i, Cache::load(from + i));
    }
    return {room, room};
  }
  // What comes after the last keys are the first values; after the last values nothing.
  Source<F32> open_keys(int64_t j, bool last) const {
    return widened(keys(j), last ? values(0) : keys(j + kHalfPage), head.head_dim);
  }
  Source<F32> open_values(int64_t j, bool last) const {
    return widened(values(j), values(last ? j : j + kHalfPage), head.value_stride);
  }
};

// Any formats.
struct MixedCache {
  const CachedHead& head;
  float* const room;

  Source<F32> open_keys(int64_t j, bool last) const {
    const StoredFormat& format = *head.key_format;
    if (!format.codes()) return open_floats<true>(format.as, j, last);
    const auto* const page = reinterpret_cast<const uint8_t*>(head.pages[j / kPagePositions]);
    with_codes(format, [&](const auto& opening) {
      const int64_t row_bytes = opening.kBytes;
      const int64_t width = head.head_dim, block = format.block == 0 ? width : smaller(format.block, width);
      const int64_t blocks = (width + block - 1) / block, panel = j % kPagePositions / kKeyPanel;
      const uint8_t* codes = page + head.keys + panel * width * row_bytes;
      const uint8_t* scale = format.block == 0 ? nullptr : page + head.key_scales + panel * blocks * kKeyPanel;
      const uint8_t* ahead = after(j, head.keys, last, kHalfPage / kKeyPanel * width * row_bytes);
      float* to = room;
      for (int64_t p = 0; p < kHalfPage / kKeyPanel; ++p) {
        const auto outers = opening.outers(page + head.key_outers + (panel + p) * kKeyPanel);
        for (int64_t d = 0; d < width; d += block) {
          const int64_t count = smaller(block, width - d);
          opening.rows(codes, ahead, row_bytes, opening.scales(scale, outers), count, to, kKeyPanel);
          codes += count * row_bytes;
          ahead += count * row_bytes;
          to += count * kKeyPanel;
          if (scale != nullptr) scale += kKeyPanel;
        }
      }
    });
    return {room, room};
  }

  Source<F32> open_values(int64_t j, bool last) const {
    const StoredFormat& format = *head.value_format;
    if (!format.codes()) return open_floats<false>(format.as, j, last);
    const auto* const page = reinterpret_cast<const uint8_t*>(head.pages[j / kPagePositions]);
    with_codes(format, [&](const auto& opening) {
      const int64_t row_bytes = opening.kBytes;
      const int64_t width = head.value_stride, stride = width / 16 * row_bytes, in_page = j % kPagePositions;
      const int64_t run = format.block == 0 ? kHalfPage : smaller(format.block, kHalfPage);
      const uint8_t* const codes = page + head.values + in_page * stride;
      const uint8_t* const ahead = after(j, head.values, last, kHalfPage * stride);
      for (int64_t i = 0; i < kHalfPage; i += run) {
        const int64_t number = format.block == 0 ? 0 : (in_page + i) / format.block;
        const uint8_t* const scales = format.block == 0 ? nullptr : page + head.value_scales + number * width;
        const auto outer = opening.outer(page + head.value_outers + number);
        for (int64_t d = 0; d < width; d += 16) {
          const int64_t at = i * stride + d / 16 * row_bytes;
          opening.rows(codes + at, ahead + at, stride, opening.scales(scales == nullptr ? nullptr : scales + d, outer),
                       run, room + i * width + d, width);
        }
      }
    });
    return {room, room};
  }

  // Where the codes of a half page of `bytes` begin: of the one after positions j .., or of that one itself.
  const uint8_t* after(int64_t j, int64_t part, bool last, int64_t bytes) const {
    const int64_t next = last ? j : j + kHalfPage;
    const std::byte* const from = head.pages[next / kPagePositions] + part;
    return reinterpret_cast<const uint8_t*>(from) + (next % kPagePositions == 0 ? 0 : bytes);
  }

  template <bool kKeys>
  Source<F32> open_floats(Stored as, int64_t j, bool last) const {
    if (as == Stored::f32) return open_floats<kKeys, F32>(j, last);
    return as == Stored::f16 ? open_floats<kKeys, F16>(j, last) : open_floats<kKeys, Bf16>(j, last);
  }
  // Nothing is asked for beyond the last ones: what follows may be of another type.
  template <bool kKeys, class Cache>
  Source<F32> open_floats(int64_t j, bool last) const {
    const FloatCache<Cache> cache{head, room};
    const int64_t next = last ? j : j + kHalfPage;
    if constexpr (kKeys) return cache.widened(cache.keys(j), cache.keys(next), head.head_dim);
    return cache.widened(cache.values(j), cache.values(next), head.value_stride);
  }
};

// One call.
struct Attention {
  const AttentionArgs& args;
  const int64_t head_dim = args.cache.head_dim, value_stride = args.cache.value_stride;
  // How many positions share a value scale: a query sees the format only of blocks before its own. 0: no such blocks.
  const int64_t value_block;
  float* const row = args.scratch;                      // [value_stride]
  float* const room = row + value_stride;               // [32][value_stride]
  float* const open = room + kHalfPage * value_stride;  // [64][value_stride]: values of one block, as bfloat16 numbers
  Tile tiles[kMostQueries / 4];
  int count = 0;
  int64_t longest = 0;

  Attention(const AttentionArgs& arguments, int64_t block_of_values) : args(arguments), value_block(block_of_values) {}

  template <class Cache>
  void run_floats() {
    plan();
    const FloatCache<Cache> cache{args.cache, room};
    if (count > 1) return run_opened(cache);
    run_phases<Cache, kPagePositions>(
        [&](int64_t j, bool last) {
          return Source<Cache>{cache.keys(j), last ? cache.values(0) : cache.keys(j + kPagePositions)};
        },
        [&](int64_t j, bool last) {
          return Source<Cache>{cache.values(j), cache.values(last ? j : j + kPagePositions)};
        });
  }

  void run_mixed() {
    plan();
    run_opened(MixedCache{args.cache, room});
  }

  template <class Cache>
  void run_opened(const Cache& cache) {
    run_phases<F32, kHalfPage>([&](int64_t j, bool last) { return cache.open_keys(j, last); },
                               [&](int64_t j, bool last) { return cache.open_values(j, last); });
  }

  template <class Read, int64_t kStep, class Keys, class Values>
  void run_phases(const Keys& keys, const Values& values) {
    for (int64_t j = 0; j < longest; j += kStep) {
      const Source<Read> k = keys(j, j + kStep >= longest);
      for (int i = 0; i < count; ++i)
        if (j < tiles[i].longest) score<Read, kStep>(tiles[i], k, j, smaller(tiles[i].longest, j + kStep));
    }
    for (int i = 0; i < count; ++i)
      for (int r = 0; r < tiles[i].rows; ++r) soften(tiles[i], r);
    for (int64_t j = 0; j < longest; j += kStep) {
      const Source<Read> v = values(j, j + kStep >= longest);
      for (int i = 0; i < count; ++i)
        if (j < tiles[i].longest) weigh(tiles[i], v, j, j + kStep);
    }
    if (value_block > 0) weigh_open();
    for (int i = 0; i < count; ++i)
      for (int r = 0; r < tiles[i].rows; ++r) finish(tiles[i], r);
  }

  // Positions whose values the query reads from the cache.
  int64_t closed(const AttentionQuery& query) const {
    return value_block == 0 ? query.position + 1 : query.position / value_block * value_block;
  }

  // Tiles of 12 queries, then one of 12, 8, 4 or 1.
  void plan() {
    float* scratch = open + kPagePositions * value_stride;
    for (int64_t first = 0; first < args.count;) {
      Tile& t = tiles[count++];
      const int64_t left = args.count - first;
      t.width = left > 8 ? 12 : left > 4 ? 8 : left > 1 ? 4 : 1;
      t.rows = static_cast<int>(smaller(left, t.width));
      t.queries = args.queries + first;
      t.longest = t.queries[0].position + 1;
      t.shared = closed(t.queries[0]);
      for (int r = 1; r < t.rows; ++r) {
        const int64_t seen = t.queries[r].position + 1;
        t.shared = smaller(t.shared, closed(t.queries[r]));
        t.longest = seen > t.longest ? seen : t.longest;
      }
      t.q = scratch;
      t.y = t.q + t.width * value_stride;
      t.most = t.y + t.width * value_stride;
      t.scores = t.most + t.width * 16;
      scratch = t.scores + t.width * ((t.longest + kPagePositions - 1) / kPagePositions * kPagePositions);
      longest = t.longest > longest ? t.longest : longest;
      for (int r = 0; r < t.width; ++r) begin(t, r);
      first += t.rows;
    }
  }

  void begin(const Tile& t, int r) const {
    const AttentionQuery& query = t.queries[smaller(r, t.rows - 1)];
    const float* q = rotated(query.q, args.angles, query.position, head_dim, row);
    if (mixed() && args.cache.q != nullptr) q = rounded(*args.cache.q, q);
    for (int64_t d = 0; d < head_dim; ++d) t.q[d * t.width + r] = q[d];
    for (int64_t d = 0; d < value_stride; d += 16) _mm512_store_ps(t.y + r * value_stride + d, _mm512_setzero_ps());
    _mm512_store_ps(t.most + 16 * r, _mm512_set1_ps(-__builtin_inff()));
  }

  bool mixed() const { return args.cache.type == CacheType::mixed; }

  // A query, rounded, in `row`.
  const float* rounded(RoundArgs rounding, const float* q) const {
    auto* const halves = reinterpret_cast<uint16_t*>(room);
    rounding.x = q;
    rounding.count = head_dim;
    rounding.y = halves;
    round(rounding);
    for (int64_t d = 0; d < head_dim; d += 16) _mm512_store_ps(row + d, load_bf16(halves + d));
    return row;
  }

  template <class Read, int R, int P>
  void score_tile(const Tile& t, Source<Read> k, int64_t begin, int64_t end) const {
    for (int64_t j = begin; j < end; j += P * kKeyPanel)
      score_panels<Read, R, P>(t, k + (j - begin) * head_dim, head_dim, args.scale, j);
  }
  // kStep: positions that k holds.
  template <class Read, int64_t kStep>
  void score(const Tile& t, Source<Read> k, int64_t begin, int64_t end) const {
    switch (t.width) {
      case 12: return score_tile<Read, 12, 2>(t, k, begin, end);
      case 8: return score_tile<Read, 8, 2>(t, k, begin, end);
      case 4: return score_tile<Read, 4, 2>(t, k, begin, end);
      default: return score_tile<Read, 1, kStep / kKeyPanel>(t, k, begin, end);
    }
  }

  void soften(const Tile& t, int r) const {
    const float greatest = _mm512_reduce_max_ps(_mm512_load_ps(t.most + 16 * r));
    // The packed queries have been used.
    t.q[r] = exponentiate(t.scores + r * kKeyPanel, t.width * kKeyPanel, t.queries[r].position + 1, greatest);
    if (mixed() && args.cache.p != nullptr) round_weights(*args.cache.p, t, r);
  }

  // A page of weights after the other; behind the query's position they are zeros, which change no scale.
  void round_weights(RoundArgs rounding, const Tile& t, int r) const {
    alignas(64) float weights[kPagePositions] = {};
    alignas(64) uint16_t halves[kPagePositions];
    rounding.x = weights;
    rounding.y = halves;
    const int64_t panels = t.queries[r].position / kKeyPanel + 1, stride = t.width * kKeyPanel;
    float* s = t.scores + r * kKeyPanel;
    for (int64_t panel = 0; panel < panels; panel += 4, s += 4 * stride) {
      const int64_t here = smaller(4, panels - panel);
      for (int64_t i = 0; i < here; ++i) _mm512_store_ps(weights + 16 * i, _mm512_load_ps(s + i * stride));
      rounding.count = here * kKeyPanel;
      round(rounding);
      for (int64_t i = 0; i < here; ++i) _mm512_store_ps(s + i * stride, load_bf16(halves + 16 * i));
    }
  }

  template <class Read, int R, int D>
  void weigh_tile(const Tile& t, Source<Read> v, int64_t begin, int64_t end) const {
    const float* s = t.scores + begin * R;
    const int64_t together = smaller(t.shared, end) - begin, first = together > 0 ? together : 0;
    if (together > 0) weigh_strips<Read, R, D>(s, R * kKeyPanel, v, value_stride, 0, together, t.y);
    for (int r = 0; r < t.rows; ++r) {
      const int64_t last = smaller(closed(t.queries[r]), end) - begin;
      if (last > first)
        weigh_strips<Read, 1, 8>(s + r * kKeyPanel, R * kKeyPanel, v, value_stride, first, last,
                                 t.y + r * value_stride);
    }
  }
  template <class Read>
  void weigh(const Tile& t, Source<Read> v, int64_t begin, int64_t end) const {
    switch (t.width) {
      case 12: return weigh_tile<Read, 12, 2>(t, v, begin, end);
      case 8: return weigh_tile<Read, 8, 2>(t, v, begin, end);
      case 4: return weigh_tile<Read, 4, 4>(t, v, begin, end);
      default: return weigh_tile<Read, 1, 8>(t, v, begin, end);
    }
  }

  // What every query reads of its own block. Queries of a tile that are in the same block share what all of them see.
  void weigh_open() const {
    int64_t opened = -1, until = 0;
    for (int i = 0; i < count; ++i) {
      const Tile& t = tiles[i];
      const int64_t begin = closed(t.queries[0]);
      int64_t together = t.queries[0].position + 1;
      bool same = true;
      for (int r = 1; r < t.rows; ++r) {
        same = same && closed(t.queries[r]) == begin;
        together = smaller(together, t.queries[r].position + 1);
      }
      same = same && t.rows > 1;
      for (int r = 0; r < t.rows; ++r) {
        const int64_t own = closed(t.queries[r]), seen = t.queries[r].position + 1;
        if (own != opened || seen > until) {
          until = smaller(own + value_block, args.added_position + args.added_count);
          open_rows(own, until);
          opened = own;
        }
        if (same && r == 0) weigh_common(t, together - own);
        const int64_t first = same ? together - own : 0;
        if (seen - own > first) weigh_rows<1, 8>(t, own, r, first, seen - own);
      }
    }
  }

  void weigh_common(const Tile& t, int64_t end) const {
    const int64_t own = closed(t.queries[0]);
    switch (t.width) {
      case 12: return weigh_rows<12, 2>(t, own, 0, 0, end);
      case 8: return weigh_rows<8, 2>(t, own, 0, 0, end);
      default: return weigh_rows<4, 4>(t, own, 0, 0, end);
    }
  }

  // Rows [begin, end) of the opened block, which begins at position `own`; from query r on.
  template <int R, int D>
  void weigh_rows(const Tile& t, int64_t own, int r, int64_t begin, int64_t end) const {
    const int64_t panel = t.width * kKeyPanel, offset = own % kKeyPanel;
    // weigh_strips counts positions from the beginning of a panel.
    const float* const s = t.scores + own / kKeyPanel * panel + r * kKeyPanel;
    const float* const values = open - offset * value_stride;
    weigh_strips<F32, R, D>(s, panel, Source<F32>{values, values}, value_stride, begin + offset, end + offset,
                            t.y + r * value_stride);
  }

  // Positions [begin, end) as bfloat16 numbers.
  void open_rows(int64_t begin, int64_t end) const {
    for (int64_t j = begin; j < end; ++j) {
      float* const to = open + (j - begin) * value_stride;
      const int64_t added = j - args.added_position;
      for (int64_t d = 0; d < value_stride; d += 16)
        _mm512_store_ps(to + d, added >= 0 ? to_bf16_number(args.added + added * args.added_stride + d, head_dim - d)
                                           : load_bf16(tail_row(args.cache, j) + d));
    }
  }

  void finish(const Tile& t, int r) const {
    const __m512 total = _mm512_set1_ps(t.q[r]);
    for (int64_t d = 0; d < head_dim; d += 16)
      _mm512_mask_storeu_ps(t.queries[r].y + d, first_lanes(head_dim - d),
                            _mm512_div_ps(_mm512_load_ps(t.y + r * value_stride + d), total));
  }
};

// Up to 16 values to one lane of a panel.
template <class Cache>
void spread(__m512 from, int64_t count, typename Cache::Value* key) {
  alignas(64) typename Cache::Value lanes[16];
  Cache::store(lanes, from);
  if (count >= 16) return unrolled<16>([&](auto l) { key[l * kKeyPanel] = lanes[l]; });
  for (int64_t l = 0; l < count; ++l) key[l * kKeyPanel] = lanes[l];
}

// One token's keys into its lane of a panel, [head_dim][16].
template <class Cache>
void store_keys(const CacheStoreArgs& args, int64_t token, typename Cache::Value* key) {
  const int64_t head_dim = args.cache.head_dim, position = args.position + token;
  const float* from = args.keys + token * args.key_stride;
  const int64_t half = args.angles.cosines != nullptr ? head_dim / 2 : 0;
  for (int64_t i = 0; i < half; i += 16) {
    const Turned turned = turn(from, args.angles, position, half, i);
    spread<Cache>(turned.low, smaller(half - i, 16), key + i * kKeyPanel);
    spread<Cache>(turned.high, smaller(half - i, 16), key + (half + i) * kKeyPanel);
  }
  for (int64_t d = 2 * half; d < head_dim; d += 16)
    spread<Cache>(_mm512_maskz_loadu_ps(first_lanes(head_dim - d), from + d), smaller(head_dim - d, 16),
                  key + d * kKeyPanel);
}

template <class Cache>
void store_key_floats(const CacheStoreArgs& args) {
  for (int64_t token = 0; token < args.count; ++token) {
    const int64_t position = args.position + token, in_page = position % kPagePositions;
    std::byte* const page = args.cache.pages[position / kPagePositions];
    store_keys<Cache>(args, token,
                      reinterpret_cast<typename Cache::Value*>(page + args.cache.keys) +
                          in_page / kKeyPanel * args.cache.head_dim * kKeyPanel + in_page % kKeyPanel);
  }
}

template <class Cache>
void store_value_floats(const CacheStoreArgs& args) {
  for (int64_t token = 0; token < args.count; ++token) {
    const int64_t position = args.position + token, head_dim = args.cache.head_dim;
    auto* const value =
        reinterpret_cast<typename Cache::Value*>(args.cache.pages[position / kPagePositions] + args.cache.values) +
        position % kPagePositions * args.cache.value_stride;
    const float* v = args.values + token * args.value_stride;
    for (int64_t d = 0; d < head_dim; d += 16)
      Cache::store(value + d, _mm512_maskz_loadu_ps(first_lanes(head_dim - d), v + d));
  }
}

template <class Cache>
void store_tokens(const CacheStoreArgs& args) {
  store_key_floats<Cache>(args);
  store_value_floats<Cache>(args);
}

// Lane by lane, as bits: of `rows` rows of 16.
__m512i largest_magnitudes(const float* x, int64_t rows) {
  __m512i most = _mm512_setzero_si512();
  for (int64_t i = 0; i < rows; ++i)
    most = _mm512_max_epu32(
        most, _mm512_and_si512(_mm512_castps_si512(_mm512_load_ps(x + 16 * i)), _mm512_set1_epi32(0x7FFFFFFF)));
  return most;
}

// Panel by panel: the tokens' lanes of a panel of floats, then block by block its codes.
void store_key_codes(const CacheStoreArgs& args) {
  const CachedHead& head = args.cache;
  const StoredFormat& format = *head.key_format;
  const Encoder encoder(format);
  const int64_t width = head.head_dim, row_bytes = kKeyPanel * format.code_bits / 8;
  const int64_t block = format.block == 0 ? width : smaller(format.block, width), blocks = (width + block - 1) / block;
  float* const panel = args.scratch;  // [head_dim][16]
  for (int64_t token = 0, end; token < args.count; token = end) {
    const int64_t position = args.position + token, lane = position % kKeyPanel;
    const int64_t number = position % kPagePositions / kKeyPanel;
    end = smaller(args.count, token + kKeyPanel - lane);
    for (int64_t i = token; i < end; ++i) store_keys<F32>(args, i, panel + lane + i - token);
    const auto lanes = static_cast<__mmask16>(first_lanes(end - token) << lane);
    auto* const page = reinterpret_cast<uint8_t*>(head.pages[position / kPagePositions]);
    __m512 outers = _mm512_set1_ps(1);
    if (format.outer()) {
      const __m512i bytes = encoder.outer_bytes(largest_magnitudes(panel, width));
      _mm_mask_storeu_epi8(page + head.key_outers + number * kKeyPanel, lanes, _mm512_cvtepi32_epi8(bytes));
      outers = to_scales(bytes);
    }
    for (int64_t d = 0; d < width; d += block)
      encoder.block(panel + d * kKeyPanel, kKeyPanel, smaller(block, width - d),
                    page + head.keys + (number * width + d) * row_bytes, row_bytes,
                    format.block == 0 ? nullptr : page + head.key_scales + (number * blocks + d / block) * kKeyPanel,
                    outers, lanes);
  }
}

// Values without blocks: every token by itself.
void store_value_codes(const CacheStoreArgs& args) {
  const CachedHead& head = args.cache;
  const Encoder encoder(*head.value_format);
  const int64_t strip_bytes = 2 * head.value_format->code_bits, row_bytes = head.value_stride / 16 * strip_bytes;
  for (int64_t token = 0; token < args.count; ++token) {
    const int64_t position = args.position + token;
    auto* const page = reinterpret_cast<uint8_t*>(head.pages[position / kPagePositions]);
    for (int64_t d = 0; d < head.head_dim; d += 16) {
      alignas(64) float strip[16];
      _mm512_store_ps(
          strip, _mm512_maskz_loadu_ps(first_lanes(head.head_dim - d), args.values + token * args.value_stride + d));
      encoder.block(strip, 16, 1, page + head.values + position % kPagePositions * row_bytes + d / 16 * strip_bytes, 0,
                    nullptr, _mm512_setzero_ps(), 0xFFFF);
    }
  }
}

// Zeros behind the head's values.
__m512 value_numbers(const CacheStoreArgs& args, int64_t j, int64_t d) {
  if (j < args.position)
    return _mm512_maskz_mov_ps(first_lanes(args.cache.head_dim - d), load_bf16(tail_row(args.cache, j) + d));
  return to_bf16_number(args.values + (j - args.position) * args.value_stride + d, args.cache.head_dim - d);
}

// The blocks of positions that end with these tokens.
void store_value_blocks(const CacheStoreArgs& args) {
  const CachedHead& head = args.cache;
  const StoredFormat& format = *head.value_format;
  const Encoder encoder(format);
  const int64_t block = format.block, width = head.value_stride, strip_bytes = 2 * format.code_bits,
                row_bytes = width / 16 * strip_bytes;
  for (int64_t begin = args.position / block * block; begin + block <= args.position + args.count; begin += block) {
    const int64_t in_page = begin % kPagePositions;
    auto* const page = reinterpret_cast<uint8_t*>(head.pages[begin / kPagePositions]);
    for (int64_t i = 0; i < block; ++i)
      for (int64_t d = 0; d < width; d += 16)
        _mm512_store_ps(args.scratch + i * width + d, value_numbers(args, begin + i, d));
    __m512 outer = _mm512_set1_ps(1);
    if (format.outer()) {
      const __m512i lanes = largest_magnitudes(args.scratch, block * width / 16);
      const __m512i bytes = encoder.outer_bytes(_mm512_set1_epi32(static_cast<int>(_mm512_reduce_max_epu32(lanes))));
      page[head.value_outers + in_page / block] = static_cast<uint8_t>(_mm512_cvtsi512_si32(bytes));
      outer = to_scales(bytes);
    }
    for (int64_t d = 0; d < width; d += 16)
      encoder.block(args.scratch + d, width, block, page + head.values + in_page * row_bytes + d / 16 * strip_bytes,
                    row_bytes, page + head.value_scales + in_page / block * width + d, outer, 0xFFFF);
  }
}

void store_tail(const CacheStoreArgs& args) {
  const CachedHead& head = args.cache;
  const int64_t end = args.position + args.count;
  for (int64_t j = end / head.tail_rows * head.tail_rows; j < end; ++j)
    for (int64_t d = 0; d < head.value_stride; d += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(head.next_tail + j % head.tail_rows * head.value_stride + d),
                          to_bf16(value_numbers(args, j, d)));
}

}  // namespace

void attention_f32(const AttentionArgs& args) { Attention(args, 0).run_floats<F32>(); }
void attention_f16(const AttentionArgs& args) { Attention(args, 0).run_floats<F16>(); }
void attention_bf16(const AttentionArgs& args) { Attention(args, 0).run_floats<Bf16>(); }
void attention_mixed(const AttentionArgs& args) {
  const StoredFormat& values = *args.cache.value_format;
  Attention(args, values.codes() ? values.block : 0).run_mixed();
}
void store_cache_f32(const CacheStoreArgs& args) { store_tokens<F32>(args); }
void store_cache_f16(const CacheStoreArgs& args) { store_tokens<F16>(args); }
void store_cache_bf16(const CacheStoreArgs& args) { store_tokens<Bf16>(args); }

void store_cache_mixed(const CacheStoreArgs& args) {
  switch (args.cache.key_format->as) {
    case Stored::f32: store_key_floats<F32>(args); break;
    case Stored::f16: store_key_floats<F16>(args); break;
    case Stored::bf16: store_key_floats<Bf16>(args); break;
    default: store_key_codes(args);
  }
  switch (args.cache.value_format->as) {
    case Stored::f32: return store_value_floats<F32>(args);
    case Stored::f16: return store_value_floats<F16>(args);
    case Stored::bf16: return store_value_floats<Bf16>(args);
    default: break;
  }
  if (args.cache.value_format->block == 0) return store_value_codes(args);
  store_value_blocks(args);
  store_tail(args);
}

}  // namespace nibble::avx512
