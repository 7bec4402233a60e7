// Attention in tiles of up to 6 queries. Three phases over the context: scores, exponentials, weighted values; in the
// first and the last a block of positions is read once for all queries, from the L1 cache but for the first tile.
//
// Registers, scores: 6 queries x 1 panel of keys = 12 sums, 2 keys, 1 broadcast query (4 x 1 and 1 x 4 for few
// queries). Values: 6 queries x 16 outputs = 12 sums, 2 values, 1 broadcast weight (4 x 16, 1 x 64); the sums wait in
// scratch between blocks. What queries of a tile see in common they sum together, the rest one by one, so that no
// query ever touches a position beyond its own.
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"

namespace nibble::avx2 {
namespace {

// body(0), body(1) .. body(N - 1) with constants: an array that only such bodies index stays in registers.
template <int I>
struct Constant {
  constexpr operator int() const { return I; }
};

template <int N, int I = 0, class Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  if constexpr (I < N) {
    body(Constant<I>());
    unrolled<N, I + 1>(body);
  }
}

struct F32 {
  using Value = float;
  static __m256 load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
};

struct F16 {
  using Value = uint16_t;
  static __m256 load(const uint16_t* p) { return load_f16(p); }
  static void store(uint16_t* p, __m256 v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

// Of 16 lanes: lane l += lane l + 8, + 4, + 2, + 1.
inline float add_lanes(__m256 low, __m256 high) {
  const __m256 a = _mm256_add_ps(low, high);
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}

inline float greatest_lane(__m256 v) {
  const __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}

inline __m256 exponential(__m256 x) {
  x = _mm256_max_ps(_mm256_set1_ps(-87.0f), x);  // the second operand, so that NaN stays NaN
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4f), r);
  __m256 e = _mm256_set1_ps(1.0f / 5040);
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 720));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 120));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 24));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 6));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0.5f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(e, _mm256_castsi256_ps(power));
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

// Scores of positions [j, j + 16 P), two registers a panel, and what they add to the greatest ones. Lanes beyond a
// query's position are written, but neither read nor counted.
template <class Cache, int R, int P>
void score_panels(const Tile& t, Source<Cache> keys, int64_t head_dim, float scale, int64_t j) {
  constexpr int kVectors = 2 * P;
  __m256 acc[R][kVectors];
  unrolled<R>([&](auto r) { unrolled<kVectors>([&](auto i) { acc[r][i] = _mm256_setzero_ps(); }); });
  const float* q = t.q;
  for (int64_t d = 0; d < head_dim; ++d, q += R) {
    prefetch<P * kKeyPanel * sizeof(*keys.here)>(keys.ahead + d * P * kKeyPanel);
    const typename Cache::Value* const at = keys.here + d * kKeyPanel;
    __m256 key[kVectors];
    unrolled<kVectors>([&](auto i) { key[i] = Cache::load(at + i / 2 * head_dim * kKeyPanel + i % 2 * 8); });
    unrolled<R>([&](auto r) {
      const __m256 value = _mm256_broadcast_ss(q + r);
      unrolled<kVectors>([&](auto i) { acc[r][i] = _mm256_fmadd_ps(value, key[i], acc[r][i]); });
    });
  }
  unrolled<R>([&](auto r) {
    const AttentionQuery& query = t.queries[r < t.rows ? r : t.rows - 1];
    unrolled<kVectors>([&](auto i) {
      const __m256i seen = first_lanes(query.position + 1 - j - 8 * i);
      __m256 x = _mm256_mul_ps(_mm256_set1_ps(scale), acc[r][i]);
      if (query.bias != nullptr) x = _mm256_add_ps(x, _mm256_maskload_ps(query.bias + j + 8 * i, seen));
      _mm256_store_ps(t.scores + (j + i / 2 * kKeyPanel) * R + 16 * r + i % 2 * 8, x);
      const __m256 most = _mm256_load_ps(t.most + 16 * r);
      _mm256_store_ps(t.most + 16 * r, _mm256_blendv_ps(most, _mm256_max_ps(most, x), _mm256_castsi256_ps(seen)));
    });
  });
}

// y[r][8 i ..] += sum over j in [begin, end) of p[j] * values[j], in R x D registers; s is the first query's first
// score of the block, queries 16 floats apart, panels s_stride.
template <class Cache, int R, int D>
void weigh_values(const float* s, int64_t s_stride, Source<Cache> values, int64_t value_stride, int64_t begin,
                  int64_t end, float* y) {
  __m256 acc[R][D];
  unrolled<R>([&](auto r) { unrolled<D>([&](auto i) { acc[r][i] = _mm256_load_ps(y + r * value_stride + 8 * i); }); });
  for (int64_t j = begin; j < end;) {
    const int64_t panel = j / kKeyPanel, stop = smaller(end, (panel + 1) * kKeyPanel);
    const float* p = s + panel * s_stride + j % kKeyPanel;
    const typename Cache::Value *v = values.here + j * value_stride, *ahead = values.ahead + j * value_stride;
    for (; j < stop; ++j, ++p, v += value_stride, ahead += value_stride) {
      prefetch<8 * D * sizeof(*ahead)>(ahead);
      if constexpr (R == 1) {  // sums and values together would be 16 registers, with none left for the weight
        const __m256 weight = _mm256_broadcast_ss(p);
        unrolled<D>([&](auto i) { acc[0][i] = _mm256_fmadd_ps(weight, Cache::load(v + 8 * i), acc[0][i]); });
      } else {
        __m256 value[D];
        unrolled<D>([&](auto i) { value[i] = Cache::load(v + 8 * i); });
        unrolled<R>([&](auto r) {
          const __m256 weight = _mm256_broadcast_ss(p + r * kKeyPanel);
          unrolled<D>([&](auto i) { acc[r][i] = _mm256_fmadd_ps(weight, value[i], acc[r][i]); });
        });
      }
    }
  }
  unrolled<R>([&](auto r) { unrolled<D>([&](auto i) { _mm256_store_ps(y + r * value_stride + 8 * i, acc[r][i]); }); });
}

// All outputs, in strips of D vectors while they last, then of half as many; value_stride is a multiple of 16.
template <class Cache, int R, int D>
void weigh_strips(const float* s, int64_t s_stride, Source<Cache> values, int64_t value_stride, int64_t begin,
                  int64_t end, float* y, int64_t from = 0) {
  for (; from + 8 * D <= value_stride; from += 8 * D)
    weigh_values<Cache, R, D>(s, s_stride, values + from, value_stride, begin, end, y + from);
  if constexpr (D > 2) weigh_strips<Cache, R, D / 2>(s, s_stride, values, value_stride, begin, end, y, from);
}

// Scores to weights, from the first position to `seen`, zeros to the end of the panel; returns their sum.
inline float exponentiate(float* s, int64_t stride, int64_t seen, float greatest) {
  const __m256 most = _mm256_set1_ps(greatest);
  __m256 total[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (; seen > 0; seen -= kKeyPanel, s += stride)
    unrolled<2>([&](auto i) {
      const __m256 lanes = _mm256_castsi256_ps(first_lanes(seen - 8 * i));
      const __m256 p = _mm256_and_ps(lanes, exponential(_mm256_sub_ps(_mm256_load_ps(s + 8 * i), most)));
      _mm256_store_ps(s + 8 * i, p);
      total[i] = _mm256_add_ps(total[i], p);
    });
  return add_lanes(total[0], total[1]);
}

// Eight values i .. of the two halves of x, rotated. What is beyond `half` is zero.
struct Turned {
  __m256 low, high;
};
inline Turned turn(const float* x, const RotaryTables& angles, int64_t position, int64_t half, int64_t i) {
  const __m256i lanes = first_lanes(half - i);
  const __m256 c = _mm256_maskload_ps(angles.cosines + position * half + i, lanes);
  const __m256 s = _mm256_maskload_ps(angles.sines + position * half + i, lanes);
  const __m256 a = _mm256_maskload_ps(x + i, lanes), b = _mm256_maskload_ps(x + half + i, lanes);
  return {_mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)), _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s))};
}

// x, or in `to` its rotation to `position`.
const float* rotated(const float* x, const RotaryTables& angles, int64_t position, int64_t head_dim, float* to) {
  if (angles.cosines == nullptr) return x;
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i += 8) {
    const Turned turned = turn(x, angles, position, half, i);
    _mm256_maskstore_ps(to + i, first_lanes(half - i), turned.low);
    _mm256_maskstore_ps(to + half + i, first_lanes(half - i), turned.high);
  }
  return to;
}

// One call. Several tiles go through the context in blocks of half a page that are first widened to float32, which
// pays for every tile but the first and leaves room in the L1 cache; a single tile reads the cache as it is.
template <class Cache>
struct Attention {
  using Value = typename Cache::Value;
  static constexpr int64_t kBlock = kPagePositions / 2;
  const AttentionArgs& args;
  const int64_t head_dim = args.cache.head_dim, value_stride = args.cache.value_stride;
  float* const row = args.scratch;                   // [value_stride]
  float* const block = args.scratch + value_stride;  // [32][value_stride]
  Tile tiles[kMostQueries / 6 + 1];
  int count = 0;
  int64_t longest = 0;

  explicit Attention(const AttentionArgs& arguments) : args(arguments) {}

  const Value* keys(int64_t j) const {
    return reinterpret_cast<const Value*>(args.cache.pages[j / kPagePositions] + args.cache.keys) +
           j % kPagePositions * head_dim;
  }
  const Value* values(int64_t j) const {
    return reinterpret_cast<const Value*>(args.cache.pages[j / kPagePositions] + args.cache.values) +
           j % kPagePositions * value_stride;
  }

  void run() {
    plan();
    if (count == 1) {
      run_phases<Cache, kPagePositions>([](const Value* from, const Value* next, int64_t) {
        return Source<Cache>{from, next};
      });
    } else {
      run_phases<F32, kBlock>(
          [&](const Value* from, const Value* next, int64_t width) { return widened(from, next, kBlock * width); });
    }
  }

  static Source<F32> widened(const float* from, const float* next, int64_t) { return {from, next}; }
  Source<F32> widened(const uint16_t* from, const uint16_t* next, int64_t size) const {
    for (int64_t i = 0; i < size; i += 8) {
      prefetch<16>(next + i);
      _mm256_store_ps(block + i, Cache::load(from + i));
    }
    return {block, block};
  }

  template <class Read, int64_t kStep, class Fetch>
  void run_phases(const Fetch& fetch) {
    for (int64_t j = 0; j < longest; j += kStep) {
      const Source<Read> k = fetch(keys(j), j + kStep < longest ? keys(j + kStep) : values(0), head_dim);
      for (int i = 0; i < count; ++i)
        if (j < tiles[i].longest) score(tiles[i], k, j, smaller(tiles[i].longest, j + kStep));
    }
    for (int i = 0; i < count; ++i)
      for (int r = 0; r < tiles[i].rows; ++r) soften(tiles[i], r);
    for (int64_t j = 0; j < longest; j += kStep) {
      const Source<Read> v = fetch(values(j), values(j + kStep < longest ? j + kStep : j), value_stride);
      for (int i = 0; i < count; ++i)
        if (j < tiles[i].longest) weigh(tiles[i], v, j, j + kStep);
    }
    for (int i = 0; i < count; ++i)
      for (int r = 0; r < tiles[i].rows; ++r) finish(tiles[i], r);
  }

  // Tiles of 6 queries, then one of 6, 4 or 1.
  void plan() {
    float* scratch = block + kBlock * value_stride;
    for (int64_t first = 0; first < args.count;) {
      Tile& t = tiles[count++];
      const int64_t left = args.count - first;
      t.width = left > 4 ? 6 : left > 1 ? 4 : 1;
      t.rows = static_cast<int>(smaller(left, t.width));
      t.queries = args.queries + first;
      t.longest = t.shared = t.queries[0].position + 1;
      for (int r = 1; r < t.rows; ++r) {
        const int64_t seen = t.queries[r].position + 1;
        t.shared = smaller(t.shared, seen);
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
    for (int64_t d = 0; d < head_dim; ++d) t.q[d * t.width + r] = q[d];
    for (int64_t d = 0; d < value_stride; d += 8) _mm256_store_ps(t.y + r * value_stride + d, _mm256_setzero_ps());
    _mm256_store_ps(t.most + 16 * r, _mm256_set1_ps(-__builtin_inff()));
  }

  template <class Read, int R, int P>
  void score_tile(const Tile& t, Source<Read> k, int64_t begin, int64_t end) const {
    for (int64_t j = begin; j < end; j += P * kKeyPanel)
      score_panels<Read, R, P>(t, k + (j - begin) * head_dim, head_dim, args.scale, j);
  }
  template <class Read>
  void score(const Tile& t, Source<Read> k, int64_t begin, int64_t end) const {
    switch (t.width) {
      case 6: return score_tile<Read, 6, 1>(t, k, begin, end);
      case 4: return score_tile<Read, 4, 1>(t, k, begin, end);
      default: return score_tile<Read, 1, 4>(t, k, begin, end);
    }
  }

  void soften(const Tile& t, int r) const {
    const float greatest = greatest_lane(_mm256_load_ps(t.most + 16 * r));
    // The packed queries have been used.
    t.q[r] = exponentiate(t.scores + r * kKeyPanel, t.width * kKeyPanel, t.queries[r].position + 1, greatest);
  }

  template <class Read, int R, int D>
  void weigh_tile(const Tile& t, Source<Read> v, int64_t begin, int64_t end) const {
    const float* s = t.scores + begin * R;
    const int64_t together = smaller(t.shared, end) - begin, first = together > 0 ? together : 0;
    if (together > 0) weigh_strips<Read, R, D>(s, R * kKeyPanel, v, value_stride, 0, together, t.y);
    for (int r = 0; r < t.rows; ++r) {
      const int64_t last = smaller(t.queries[r].position + 1, end) - begin;
      if (last > first)
        weigh_strips<Read, 1, 8>(s + r * kKeyPanel, R * kKeyPanel, v, value_stride, first, last,
                                 t.y + r * value_stride);
    }
  }
  template <class Read>
  void weigh(const Tile& t, Source<Read> v, int64_t begin, int64_t end) const {
    switch (t.width) {
      case 6: return weigh_tile<Read, 6, 2>(t, v, begin, end);
      case 4: return weigh_tile<Read, 4, 2>(t, v, begin, end);
      default: return weigh_tile<Read, 1, 8>(t, v, begin, end);
    }
  }

  void finish(const Tile& t, int r) const {
    const __m256 total = _mm256_set1_ps(t.q[r]);
    for (int64_t d = 0; d < head_dim; d += 8)
      _mm256_maskstore_ps(t.queries[r].y + d, first_lanes(head_dim - d),
                          _mm256_div_ps(_mm256_load_ps(t.y + r * value_stride + d), total));
  }
};

// Up to eight values to one lane of a panel.
template <class Cache>
void spread(__m256 from, int64_t count, typename Cache::Value* key) {
  alignas(32) typename Cache::Value lanes[8];
  Cache::store(lanes, from);
  if (count >= 8) return unrolled<8>([&](auto l) { key[l * kKeyPanel] = lanes[l]; });
  for (int64_t l = 0; l < count; ++l) key[l * kKeyPanel] = lanes[l];
}

template <class Cache>
void store_token(const CacheStoreArgs& args, int64_t token) {
  using Value = typename Cache::Value;
  const int64_t head_dim = args.cache.head_dim, position = args.position + token, in_page = position % kPagePositions;
  std::byte* page = args.cache.pages[position / kPagePositions];
  Value* key = reinterpret_cast<Value*>(page + args.cache.keys) + in_page / kKeyPanel * head_dim * kKeyPanel +
               in_page % kKeyPanel;
  Value* value = reinterpret_cast<Value*>(page + args.cache.values) + in_page * args.cache.value_stride;
  const float* from = args.keys + token * args.key_stride;
  const int64_t half = args.angles.cosines != nullptr ? head_dim / 2 : 0;
  for (int64_t i = 0; i < half; i += 8) {
    const Turned turned = turn(from, args.angles, position, half, i);
    spread<Cache>(turned.low, smaller(half - i, 8), key + i * kKeyPanel);
    spread<Cache>(turned.high, smaller(half - i, 8), key + (half + i) * kKeyPanel);
  }
  for (int64_t d = 2 * half; d < head_dim; d += 8)
    spread<Cache>(_mm256_maskload_ps(from + d, first_lanes(head_dim - d)), smaller(head_dim - d, 8),
                  key + d * kKeyPanel);
  const float* v = args.values + token * args.value_stride;
  for (int64_t d = 0; d < head_dim; d += 8)
    Cache::store(value + d, _mm256_maskload_ps(v + d, first_lanes(head_dim - d)));
}

template <class Cache>
void store_tokens(const CacheStoreArgs& args) {
  for (int64_t token = 0; token < args.count; ++token) store_token<Cache>(args, token);
}

}  // namespace

void attention_f32(const AttentionArgs& args) { Attention<F32>(args).run(); }
void attention_f16(const AttentionArgs& args) { Attention<F16>(args).run(); }
void store_cache_f32(const CacheStoreArgs& args) { store_tokens<F32>(args); }
void store_cache_f16(const CacheStoreArgs& args) { store_tokens<F16>(args); }

}  // namespace nibble::avx2
