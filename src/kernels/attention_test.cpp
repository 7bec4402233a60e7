#include "kernels/abi/attention.h"

#include <algorithm>

#include "core/buffer.h"
#include "format/block_scale.h"
#include "kernels/attention_plan.h"
#include "kernels/linear.h"
#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

// Keys, values and queries of one head, and its pages in both types. Of every page the head's part lies behind that of
// another head; what nothing was stored in is NaN.
struct Attended {
  int64_t head_dim, positions;
  bool rotary, with_bias = false;
  std::vector<float> q, keys, values, cosines, sines, bias;  // [positions][head_dim, head_dim / 2 or 1]

  Attended(Random& random, int64_t dim, int64_t count, bool rotates = false)
      : head_dim(dim), positions(count), rotary(rotates && dim % 2 == 0) {
    q = random_rows(random, count, dim, Values::normal);
    keys = random_rows(random, count, dim, Values::normal);
    values = random_rows(random, count, dim, Values::normal);
    bias = random_rows(random, 1, count, Values::normal);
    for (int64_t i = 0; i < count * (dim / 2); ++i) {
      cosines.push_back(static_cast<float>(std::cos(0.1 * static_cast<double>(i))));
      sines.push_back(static_cast<float>(std::sin(0.1 * static_cast<double>(i))));
    }
    for (float& value : values) value = f16_to_f32(f32_to_f16(value));
    if (!rotary)
      for (float& key : keys) key = f16_to_f32(f32_to_f16(key));
  }

  int64_t value_stride() const { return round_up(head_dim, 16); }
  RotaryTables angles() const { return rotary ? RotaryTables{cosines.data(), sines.data()} : RotaryTables{}; }
};

AttentionFormats formats_of(const char* q, const char* k, const char* p, const char* v) {
  return {*parse_attention_format("q", q, "test"), *parse_attention_format("k", k, "test"),
          *parse_attention_format("p", p, "test"), *parse_attention_format("v", v, "test")};
}

// What the rows of a type are run with: every kind of code in all widths, blocks shorter and longer than a panel.
std::vector<AttentionFormats> formats_of(CacheType type) {
  if (type == CacheType::f32) return {{}};
  if (type == CacheType::f16) return {formats_of("f32", "f16", "f32", "f16")};
  if (type == CacheType::bf16) return {formats_of("f32", "bf16", "f32", "bf16")};
  return {
      formats_of("bfp6", "bfp6", "bfp6", "bfp6"),
      formats_of("f32", "bfp4", "f32", "bfp4:b32"),
      formats_of("mxfp8:b8", "mxfp4:b8", "bm8:b8", "mxfp4:b8"),
      formats_of("e4m3", "e4m3", "e4m3", "dmf8"),
      formats_of("fixed8:f4", "fixed8:f4", "fixed8:f6", "fixed4:f2"),
      formats_of("bl8", "bl8:b64", "bl8:b64", "bl4"),
      formats_of("mxfp6", "bm6:b4:up", "bm6", "mxfp6:b64"),
      formats_of("bfp8:row", "bfp8:row:nearest", "mxint8", "mxfp8e5m2:b16"),
      formats_of("f32", "f16", "f32", "bfp8:b1"),
      formats_of("f32", "bl4", "bfp4", "f32"),
      formats_of("bfp3", "bf16", "f32", "bfp2:b2"),
      formats_of("bfp5", "f32", "f32", "f32"),
      formats_of("f32", "bl6", "f32", "bfp5"),
      formats_of("f32", "bfp5:b32", "f32", "bl6:b32"),
      formats_of("fixed6:f3", "fixed6:f3", "bm6", "mxfp6e3m2:b16"),
      formats_of("nvfp4", "nvfp4", "nvfp4", "nvfp4"),
      formats_of("f32", "nvfp4:b32", "nvfp4:b8", "nvfp4:b64"),
  };
}

// A head's cache as a sequence keeps it: pages, and the values of the open block before and after the last store.
struct Pages {
  AttentionPlan plan;
  std::vector<AlignedBuffer<std::byte>> buffers;
  std::vector<std::byte*> pages;
  AlignedBuffer<uint16_t> tails[2];
  int64_t added_position = 0, added_count = 0;

  Pages(const Attended& attended, const AttentionFormats& formats) : plan(formats, attended.head_dim) {
    const int64_t part = plan.part_bytes();
    for (int64_t j = 0; j < attended.positions; j += kPagePositions) {
      buffers.emplace_back(2 * part);
      std::memset(buffers.back().data(), 0xFF, static_cast<size_t>(2 * part));  // NaN in all floats
      pages.push_back(buffers.back().data());
    }
    for (auto& tail : tails) {
      tail = AlignedBuffer<uint16_t>(64 * attended.value_stride());
      std::memset(tail.data(), 0xFF, static_cast<size_t>(tail.size()) * sizeof(uint16_t));
    }
  }
  CachedHead head() const {
    CachedHead out = plan.head(pages.data(), plan.part_bytes());
    out.tail = tails[0].data();
    out.next_tail = const_cast<uint16_t*>(tails[1].data());
    out.tail_rows = 64;
    return out;
  }
  void store(const AttentionRow& row, const Attended& attended, int64_t position, int64_t count) {
    if (added_count > 0) std::swap(tails[0], tails[1]);
    added_position = position;
    added_count = count;
    AlignedBuffer<float> scratch(80 * attended.value_stride());
    CacheStoreArgs args{};
    args.cache = head();
    args.angles = attended.angles();
    args.keys = attended.keys.data() + position * attended.head_dim;
    args.values = attended.values.data() + position * attended.head_dim;
    args.key_stride = args.value_stride = attended.head_dim;
    args.position = position;
    args.count = count;
    args.scratch = scratch.data();
    row.store(args);
  }
  float at(int64_t page, int64_t bytes, int64_t index) const {
    const std::byte* from = pages[static_cast<size_t>(page)] + bytes;
    if (plan.type() == CacheType::f32) return reinterpret_cast<const float*>(from)[index];
    const uint16_t half = reinterpret_cast<const uint16_t*>(from)[index];
    return plan.type() == CacheType::f16 ? f16_to_f32(half) : bf16_to_f32(half);
  }
  // Of floats, as the contract draws the layout.
  float key(int64_t j, int64_t d) const {
    const int64_t in_page = j % 64, head_dim = head().head_dim;
    return at(j / 64, head().keys, in_page / 16 * 16 * head_dim + d * 16 + in_page % 16);
  }
  float value(int64_t j, int64_t d) const { return at(j / 64, head().values, j % 64 * head().value_stride + d); }
};

// Every row with everything it is run with.
template <class Body>
void for_all(const Body& body) {
  for (const AttentionRow* row : attention_rows(detected_isa()))
    for (const AttentionFormats& formats : formats_of(row->type)) {
      SCOPED_TRACE(row->name + (" " + dump_json(to_json(formats))));
      body(*row, formats);
    }
}

// Queries at these positions, in one call. Row i of the result belongs to positions[i].
std::vector<float> run(const AttentionRow& row, const Attended& attended, const Pages& pages,
                       const std::vector<int64_t>& positions) {
  const auto count = static_cast<int64_t>(positions.size());
  std::vector<float> y(static_cast<size_t>(count * attended.head_dim) + 1, 12345.0f);
  std::vector<AttentionQuery> queries;
  int64_t seen = 0;
  for (int64_t position : positions) {
    queries.push_back({attended.q.data() + position * attended.head_dim,
                       y.data() + static_cast<int64_t>(queries.size()) * attended.head_dim,
                       attended.with_bias ? attended.bias.data() : nullptr, position});
    seen = std::max(seen, position + 1);
  }
  const int64_t stride = attended.value_stride(),
                floats = 97 * stride + round_up(count, 12) * (2 * stride + 16 + round_up(seen, 64));
  AlignedBuffer<float> scratch(floats + 1);
  for (float& value : scratch.span()) value = NAN;
  scratch[floats] = 12345.0f;
  row.kernel({pages.head(), attended.angles(), 0.3f, queries.data(), count, scratch.data(),
              attended.values.data() + pages.added_position * attended.head_dim, attended.head_dim,
              pages.added_position, pages.added_count});
  EXPECT_EQ(y.back(), 12345.0f) << row.name;
  EXPECT_EQ(scratch[floats], 12345.0f) << row.name;
  y.pop_back();
  return y;
}

Pages stored(const AttentionRow& row, const Attended& attended, const AttentionFormats& formats) {
  Pages pages(attended, formats);
  pages.store(row, attended, 0, attended.positions);
  return pages;
}

void expect_same(const std::vector<float>& a, const std::vector<float>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_TRUE(same(a[i], b[i])) << what << " at " << i << ": " << a[i] << ", " << b[i];
}

// Value d of a row, rotated in double precision.
double rotated(const Attended& attended, const std::vector<float>& rows, int64_t position, int64_t d) {
  const auto at = [&](int64_t i) {
    return static_cast<double>(rows[static_cast<size_t>(position * attended.head_dim + i)]);
  };
  if (!attended.rotary) return at(d);
  const int64_t half = attended.head_dim / 2, i = d % half;
  const double cosine = attended.cosines[static_cast<size_t>(position * half + i)],
               sine = attended.sines[static_cast<size_t>(position * half + i)];
  return d < half ? at(i) * cosine - at(i + half) * sine : at(i + half) * cosine + at(i) * sine;
}

// Softmax written out in double precision over what the cache holds.
std::vector<double> oracle(const Attended& attended, const Pages& pages, int64_t position) {
  std::vector<double> y(static_cast<size_t>(attended.head_dim));
  double total = 0;
  for (int64_t j = 0; j <= position; ++j) {
    double dot = 0;
    for (int64_t d = 0; d < attended.head_dim; ++d)
      dot += rotated(attended, attended.q, position, d) * static_cast<double>(pages.key(j, d));
    const double p = std::exp(static_cast<double>(0.3f) * dot +
                              (attended.with_bias ? static_cast<double>(attended.bias[static_cast<size_t>(j)]) : 0));
    total += p;
    for (int64_t d = 0; d < attended.head_dim; ++d)
      y[static_cast<size_t>(d)] += p * static_cast<double>(pages.value(j, d));
  }
  for (double& value : y) value /= total;
  return y;
}

// The definition once more, on rows as they were before anything was stored, with format/grid.h for all rounding.
std::vector<float> defined(const Attended& attended, const AttentionFormats& formats, int64_t t) {
  const int64_t head_dim = attended.head_dim;
  const auto row_of = [&](const std::vector<float>& rows, int64_t position) {
    std::vector<float> x(rows.begin() + position * head_dim, rows.begin() + (position + 1) * head_dim);
    if (!attended.rotary) return x;
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
      const float c = attended.cosines[static_cast<size_t>(position * half + i)],
                  n = attended.sines[static_cast<size_t>(position * half + i)];
      const float a = x[static_cast<size_t>(i)], b = x[static_cast<size_t>(i + half)];
      x[static_cast<size_t>(i)] = std::fma(a, c, -(b * n));
      x[static_cast<size_t>(i + half)] = std::fma(b, c, a * n);
    }
    return x;
  };
  const auto rounded = [](std::vector<float> x, const NumberFormat& format) {
    if (format.is_block()) round_row(x, format, x);
    for (float& value : x)
      if (format.levels == Levels::f16) value = f16_to_f32(f32_to_f16(value));
    for (float& value : x)
      if (format.levels == Levels::bf16) value = bf16_to_f32(f32_to_bf16(value));
    return x;
  };
  const std::vector<float> q = rounded(row_of(attended.q, t), formats.q);
  std::vector<float> p;
  for (int64_t j = 0; j <= t; ++j) {
    const std::vector<float> k = rounded(row_of(attended.keys, j), formats.k);
    float a = 0;
    for (size_t d = 0; d < k.size(); ++d) a = std::fma(q[d], k[d], a);
    p.push_back(0.3f * a + (attended.with_bias ? attended.bias[static_cast<size_t>(j)] : 0.0f));
  }
  const float greatest = *std::max_element(p.begin(), p.end());
  float sums[16] = {};
  for (size_t j = 0; j < p.size(); ++j) {
    const float x = std::max(p[j] - greatest, -87.0f), n = std::nearbyint(x * 1.44269504f);
    const float r = std::fma(n, 2.12194440e-4f, std::fma(n, -0.693359375f, x));
    p[j] = 1.0f / 5040;
    for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p[j] = std::fma(p[j], r, c);
    p[j] = std::isnan(n) ? n : std::ldexp(p[j], static_cast<int>(n));
    sums[j % 16] += p[j];
  }
  for (int step = 8; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) sums[i] += sums[i + step];
  if (formats.p.is_block()) round_probabilities(p, formats.p, p);
  const bool blocks = formats.v.is_block() && formats.v.sharing == Sharing::group;
  const int64_t block = blocks ? formats.v.group : 1, closed = blocks ? t / block * block : t + 1;
  // What the E4M3 scales of a block of values are multiplied with belongs to all outputs.
  const auto rounded_block = [&](std::vector<float> v, int64_t begin) {
    if (!blocks) return rounded(std::move(v), formats.v);
    float most = 0;
    for (int64_t i = begin * head_dim; i < (begin + static_cast<int64_t>(v.size())) * head_dim; ++i)
      most = std::max(most, std::fabs(bf16_to_f32(f32_to_bf16(attended.values[static_cast<size_t>(i)]))));
    round_row(v, formats.v, token_outer_scale(formats.v, most), v);
    return v;
  };
  std::vector<float> y;
  for (int64_t d = 0; d < head_dim; ++d) {
    const auto value = [&](int64_t j) { return attended.values[static_cast<size_t>(j * head_dim + d)]; };
    const auto half = [&](int64_t j) { return bf16_to_f32(f32_to_bf16(value(j))); };
    float a = 0;
    std::vector<float> v;
    for (int64_t j = 0; j <= t; ++j) {
      if (j % block == 0) {
        v.clear();
        for (int64_t i = j; i < j + block && i < closed; ++i) v.push_back(blocks ? half(i) : value(i));
        v = rounded_block(v, j);
      }
      a = std::fma(p[static_cast<size_t>(j)], j < closed ? v[static_cast<size_t>(j % block)] : half(j), a);
    }
    y.push_back(a / sums[0]);
  }
  return y;
}

TEST(Attention, TheReferenceIsTheDefinition) {
  Random random(31);
  const auto rows = attention_rows(Isa::portable);
  for (const AttentionRow* row : rows)
    for (const AttentionFormats& formats : formats_of(row->type))
      for (int64_t head_dim : {6, 64, 130}) {
        Attended attended(random, head_dim, 100, true);
        attended.with_bias = head_dim == 64;
        if (formats.v.is_block())  // not what float16 holds
          for (float& value : attended.values) value *= 1.0f / 3;
        Pages pages = stored(*row, attended, formats);
        for (int64_t t : {0, 15, 16, 31, 63, 64, 97})
          expect_same(run(*row, attended, pages, {t}), defined(attended, formats, t),
                      row->name + (" " + dump_json(to_json(formats))) + " t " + std::to_string(t));
      }
}

TEST(Attention, EveryRowIsNearTheOracle) {
  Random random(3);
  for (int i = 0; i < 300; ++i) {
    Attended attended(random, 1 + i % 150, 1 + i * 7 % 90, i % 3 != 0);
    attended.with_bias = i % 2 == 0;
    for (const AttentionRow* row : attention_rows(detected_isa())) {
      if (row->type == CacheType::mixed) continue;
      const Pages pages = stored(*row, attended, formats_of(row->type)[0]);
      const auto y = run(*row, attended, pages, {attended.positions - 1});
      const auto expected = oracle(attended, pages, attended.positions - 1);
      for (size_t d = 0; d < y.size(); ++d)
        ASSERT_NEAR(y[d], expected[d], 5e-6) << row->name << " head_dim " << attended.head_dim << " output " << d;
    }
  }
}

TEST(Attention, EveryRowGivesTheBitsOfTheReference) {
  Random random(4);
  for (int64_t head_dim : {1, 8, 15, 16, 24, 48, 64, 80, 96, 128, 130}) {
    for (int64_t positions : {1, 16, 61, 131}) {
      Attended attended(random, head_dim, positions, true);
      attended.with_bias = positions == 61;
      std::vector<int64_t> asked;
      for (int64_t position = std::max<int64_t>(0, positions - 17); position < positions; ++position)
        asked.push_back(position);
      for_all([&](const AttentionRow& row, const AttentionFormats& formats) {
        const bool enough = (head_dim == 1 || head_dim == 24 || head_dim == 64 || head_dim == 130) &&
                            (positions == 16 || positions == 131);
        if (row.type == CacheType::mixed && !enough) return;  // there are many
        const AttentionRow& reference = attention_row(row.type, Isa::portable);
        const std::string what = "head_dim " + std::to_string(head_dim);
        const auto expected = run(reference, attended, stored(reference, attended, formats), asked);
        const Pages pages = stored(row, attended, formats);
        expect_same(run(row, attended, pages, asked), expected, what);
        expect_same(run(reference, attended, pages, asked), expected, what + ", stored");
      });
    }
  }
}

// Blocks of zeros, of subnormal and of huge numbers; powers of two, which are easily moved.
TEST(Attention, ExtremesAreStoredAlike) {
  Random random(41);
  for (float factor : {0.0f, 1e-40f, 1e-30f, 0x1p-20f, 0x1p30f, 1e36f}) {
    Attended attended(random, 40, 80);
    for (std::vector<float>* rows : {&attended.keys, &attended.values})
      for (size_t i = 0; i < rows->size(); ++i)
        (*rows)[i] = i % 3 == 0 ? factor : i % 3 == 1 ? -factor * 0.5f : (*rows)[i] * factor;
    for (float& value : attended.q) value *= 1e-37f;
    for_all([&](const AttentionRow& row, const AttentionFormats& formats) {
      const AttentionRow& reference = attention_row(row.type, Isa::portable);
      const Pages pages = stored(reference, attended, formats), other = stored(row, attended, formats);
      for (int64_t t : {15, 79}) {
        const auto expected = run(reference, attended, pages, {t});
        expect_same(run(row, attended, other, {t}), expected, std::to_string(factor));
        if (factor < 1e36f) expect_same(expected, defined(attended, formats, t), std::to_string(factor));
      }
    });
  }
}

TEST(Attention, QueriesDoNotSeeHowTheyAreGrouped) {
  Random random(6);
  for (int64_t head_dim : {20, 64, 128}) {
    const Attended attended(random, head_dim, 200, true);
    for_all([&](const AttentionRow& row, const AttentionFormats& formats) {
      const Pages pages = stored(row, attended, formats);
      for (int64_t count = 1; count <= kMostQueries; count += count < 14 ? 1 : 17) {
        std::vector<int64_t> positions;  // ascending in groups of three, with one that is out of order
        for (int64_t i = 0; i < count; ++i) positions.push_back(100 - count + i / 3 * 5);
        positions.back() = count % 4 == 3 ? 3 : 199;
        const auto together = run(row, attended, pages, positions);
        for (size_t i = 0; i < positions.size(); i += row.type == CacheType::mixed ? 5 : 1) {
          const auto alone = run(row, attended, pages, {positions[i]});
          const auto begin = together.begin() + static_cast<int64_t>(i) * head_dim;
          expect_same({begin, begin + head_dim}, alone, "of " + std::to_string(count));
        }
      }
    });
  }
}

// Neither garbage in what was never stored nor NaN in keys and values of later tokens reaches a query.
TEST(Attention, DependsOnNothingBeyondItsPosition) {
  Random random(5);
  const Attended all(random, 64, 130);
  for (int64_t positions : {1, 7, 16, 33, 64, 65, 100}) {
    Attended poisoned = all;
    for (size_t k = static_cast<size_t>(positions * 64); k < all.keys.size(); ++k)
      poisoned.keys[k] = poisoned.values[k] = k % 2 == 0 ? NAN : INFINITY;
    for_all([&](const AttentionRow& row, const AttentionFormats& formats) {
      const std::vector<int64_t> asked(5, positions - 1);
      const auto y = run(row, all, stored(row, all, formats), asked);
      for (float value : y) ASSERT_TRUE(std::isfinite(value));
      std::vector<int64_t> with_later = asked;
      for (int64_t i = 0; i < 9; ++i) with_later.push_back(positions + i * 3);
      auto other = run(row, poisoned, stored(row, poisoned, formats), with_later);
      // Without a scale of its own a number that is no number is 0.
      const bool blocks = formats.k.is_float() || formats.k.sharing != Sharing::none;
      ASSERT_TRUE(!blocks || std::isnan(other.back()));
      other.resize(y.size());
      expect_same(other, y, "before NaN");
      Pages short_cache(all, formats);
      short_cache.store(row, all, 0, positions);
      expect_same(run(row, all, short_cache, asked), y, "alone");
    });
  }
}

// However the tokens came: in one go, one by one, in chunks that begin and end inside blocks.
TEST(Attention, ChunksDoNotShow) {
  Random random(17);
  const Attended attended(random, 20, 131, true);
  for_all([&](const AttentionRow& row, const AttentionFormats& formats) {
    const Pages whole = stored(row, attended, formats);
    for (int64_t step : {1, 7, 16, 50}) {
      Pages chunks(attended, formats);
      for (int64_t position = 0; position < attended.positions; position += step) {
        // A chunk ends at a page, as a sequence stores them.
        chunks.store(row, attended, position, std::min(step, attended.positions - position));
        const int64_t last = std::min(position + step, attended.positions) - 1;
        if (last % 13 < 2 || step > 1)
          expect_same(run(row, attended, chunks, {position, last}), run(row, attended, whole, {position, last}),
                      "in steps of " + std::to_string(step));
      }
    }
  });
}

TEST(Attention, StoresWhereTheLayoutSays) {
  Random random(8);
  for (int64_t head_dim : {1, 6, 24, 80, 128}) {
    const Attended attended(random, head_dim, 150, true);
    for (const AttentionRow* row : attention_rows(detected_isa())) {
      if (row->type == CacheType::mixed) continue;
      const AttentionFormats formats = formats_of(row->type)[0];
      Pages pages(attended, formats), chunks(attended, formats);
      pages.store(*row, attended, 0, 140);
      for (int64_t position : {0, 1, 17, 64, 139}) {
        const int64_t next = position == 0 ? 1 : position == 1 ? 17 : position == 17 ? 64 : position == 64 ? 139 : 140;
        chunks.store(*row, attended, position, next - position);
      }
      for (int64_t j = 0; j < 150; ++j) {
        for (int64_t d = 0; d < head_dim; ++d) {
          ASSERT_TRUE(same(pages.key(j, d), chunks.key(j, d)));
          if (j >= 140) {
            ASSERT_TRUE(std::isnan(pages.key(j, d)) && std::isnan(pages.value(j, d))) << row->name << " " << j;
            continue;
          }
          const double key = rotated(attended, attended.keys, j, d);
          const double tolerance = row->type == CacheType::f32 ? 1e-6 : row->type == CacheType::f16 ? 1e-3 : 4e-3;
          const float value = attended.values[static_cast<size_t>(j * head_dim + d)];
          ASSERT_NEAR(pages.key(j, d), key, tolerance * (1 + std::abs(key))) << row->name << " " << j << " " << d;
          ASSERT_EQ(pages.value(j, d), row->type == CacheType::bf16 ? bf16_to_f32(f32_to_bf16(value)) : value);
        }
      }
      for (const auto& page : pages.buffers)  // the part of the other head
        for (int64_t i = 0; i < page.size() / 2; ++i) ASSERT_EQ(page[i], std::byte{0xFF}) << row->name;
    }
  }
}

TEST(Attention, LargeScoresDoNotOverflow) {
  Random random(9);
  Attended attended(random, 16, 20);
  for (float& value : attended.q) value *= 1000;
  for_all([&](const AttentionRow& row, const AttentionFormats& formats) {
    for (float value : run(row, attended, stored(row, attended, formats), {19})) EXPECT_TRUE(std::isfinite(value));
  });
}

TEST(Attention, NanInTheInputIsNotHidden) {
  Random random(15);
  Attended attended(random, 16, 20);
  attended.q[19 * 16 + 3] = NAN;
  for_all([&](const AttentionRow& row, const AttentionFormats& formats) {
    EXPECT_TRUE(std::isnan(run(row, attended, stored(row, attended, formats), {19})[0]));
  });
}

TEST(Attention, TheBestRowOfEachTypeIsChosen) {
  for (CacheType type : {CacheType::f32, CacheType::f16, CacheType::bf16, CacheType::mixed}) {
    const AttentionRow& portable = attention_row(type, Isa::portable);
    EXPECT_EQ(portable.type, type);
    EXPECT_EQ(attention_row(type, detected_isa()).type, type);
    if (detected_isa() > Isa::portable) {
      EXPECT_NE(attention_row(type, detected_isa()).kernel, portable.kernel);
    }
  }
}

}  // namespace
}  // namespace nibble
