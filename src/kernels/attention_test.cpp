#include "kernels/abi/attention.h"

#include <optional>

#include "core/buffer.h"
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

int64_t bytes_of(CacheType type) { return type == CacheType::f32 ? 4 : 2; }

struct Pages {
  std::vector<AlignedBuffer<std::byte>> buffers;
  std::vector<std::byte*> pages;
  CachedHead head{};

  Pages(const Attended& attended, CacheType type) {
    const int64_t part = kPagePositions * bytes_of(type) * (attended.head_dim + attended.value_stride());
    for (int64_t j = 0; j < attended.positions; j += kPagePositions) {
      buffers.emplace_back(2 * part);
      std::memset(buffers.back().data(), 0xFF, static_cast<size_t>(2 * part));  // NaN in both types
      pages.push_back(buffers.back().data());
    }
    head = {type,
            attended.head_dim,
            attended.value_stride(),
            pages.data(),
            part,
            part + kPagePositions * bytes_of(type) * attended.head_dim};
  }
  void store(const AttentionRow& row, const Attended& attended, int64_t position, int64_t count) {
    CacheStoreArgs args{};
    args.cache = head;
    args.angles = attended.angles();
    args.keys = attended.keys.data() + position * attended.head_dim;
    args.values = attended.values.data() + position * attended.head_dim;
    args.key_stride = args.value_stride = attended.head_dim;
    args.position = position;
    args.count = count;
    row.store(args);
  }
  float at(int64_t page, int64_t bytes, int64_t index) const {
    const std::byte* from = pages[static_cast<size_t>(page)] + bytes;
    return head.type == CacheType::f32 ? reinterpret_cast<const float*>(from)[index]
                                       : f16_to_f32(reinterpret_cast<const uint16_t*>(from)[index]);
  }
  // As the contract draws the layout.
  float key(int64_t j, int64_t d) const {
    const int64_t in_page = j % 64;
    return at(j / 64, head.keys, in_page / 16 * 16 * head.head_dim + d * 16 + in_page % 16);
  }
  float value(int64_t j, int64_t d) const { return at(j / 64, head.values, j % 64 * head.value_stride + d); }
};

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
                floats = 33 * stride + round_up(count, 12) * (2 * stride + 16 + round_up(seen, 64));
  AlignedBuffer<float> scratch(floats + 1);
  for (float& value : scratch.span()) value = NAN;
  scratch[floats] = 12345.0f;
  row.kernel({pages.head, attended.angles(), 0.3f, queries.data(), count, scratch.data()});
  EXPECT_EQ(y.back(), 12345.0f) << row.name;
  EXPECT_EQ(scratch[floats], 12345.0f) << row.name;
  y.pop_back();
  return y;
}

Pages stored(const AttentionRow& row, const Attended& attended) {
  Pages pages(attended, row.type);
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

TEST(Attention, EveryRowIsNearTheOracle) {
  Random random(3);
  for (int i = 0; i < 600; ++i) {
    Attended attended(random, 1 + i % 150, 1 + i * 7 % 90, i % 3 != 0);
    attended.with_bias = i % 2 == 0;
    for (const AttentionRow* row : attention_rows(detected_isa())) {
      const Pages pages = stored(*row, attended);
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
      for (CacheType type : {CacheType::f32, CacheType::f16}) {
        std::optional<std::vector<float>> expected;
        const auto rows = attention_rows(detected_isa());
        for (auto row = rows.rbegin(); row != rows.rend(); ++row) {
          if ((*row)->type != type) continue;
          ASSERT_EQ((*row)->tolerance, 0);
          std::vector<int64_t> asked;
          for (int64_t position = std::max<int64_t>(0, positions - 17); position < positions; ++position)
            asked.push_back(position);
          const auto y = run(**row, attended, stored(**row, attended), asked);
          if (!expected) expected = y;
          expect_same(y, *expected, (*row)->name + (" head_dim " + std::to_string(head_dim)));
        }
      }
    }
  }
}

TEST(Attention, QueriesDoNotSeeHowTheyAreGrouped) {
  Random random(6);
  for (int64_t head_dim : {20, 64, 128}) {
    const Attended attended(random, head_dim, 200, true);
    for (const AttentionRow* row : attention_rows(detected_isa())) {
      const Pages pages = stored(*row, attended);
      for (int64_t count = 1; count <= kMostQueries; count += count < 14 ? 1 : 17) {
        std::vector<int64_t> positions;  // ascending in groups of three, with one that is out of order
        for (int64_t i = 0; i < count; ++i) positions.push_back(100 - count + i / 3 * 5);
        positions.back() = count % 2 == 0 ? 199 : 3;
        const auto together = run(*row, attended, pages, positions);
        for (size_t i = 0; i < positions.size(); ++i) {
          const auto alone = run(*row, attended, pages, {positions[i]});
          const auto begin = together.begin() + static_cast<int64_t>(i) * head_dim;
          expect_same({begin, begin + head_dim}, alone, row->name + (" of " + std::to_string(count)));
        }
      }
    }
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
    for (const AttentionRow* row : attention_rows(detected_isa())) {
      const std::vector<int64_t> asked(5, positions - 1);
      const auto y = run(*row, all, stored(*row, all), asked);
      for (float value : y) ASSERT_TRUE(std::isfinite(value)) << row->name;
      std::vector<int64_t> with_later = asked;
      for (int64_t i = 0; i < 9; ++i) with_later.push_back(positions + i * 3);
      auto other = run(*row, poisoned, stored(*row, poisoned), with_later);
      ASSERT_TRUE(std::isnan(other.back())) << row->name;
      other.resize(y.size());
      expect_same(other, y, row->name);
      Pages short_cache(all, row->type);
      short_cache.store(*row, all, 0, positions);
      expect_same(run(*row, all, short_cache, asked), y, row->name);
    }
  }
}

TEST(Attention, StoresWhereTheLayoutSays) {
  Random random(8);
  for (int64_t head_dim : {1, 6, 24, 80, 128}) {
    const Attended attended(random, head_dim, 150, true);
    for (const AttentionRow* row : attention_rows(detected_isa())) {
      Pages pages(attended, row->type), chunks(attended, row->type);
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
          ASSERT_NEAR(pages.key(j, d), key, (row->type == CacheType::f16 ? 1e-3 : 1e-6) * (1 + std::abs(key)))
              << row->name << " " << j << " " << d;
          ASSERT_EQ(pages.value(j, d), attended.values[static_cast<size_t>(j * head_dim + d)]) << row->name;
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
  for (const AttentionRow* row : attention_rows(detected_isa()))
    for (float value : run(*row, attended, stored(*row, attended), {19}))
      EXPECT_TRUE(std::isfinite(value)) << row->name;
}

TEST(Attention, NanInTheInputIsNotHidden) {
  Random random(15);
  Attended attended(random, 16, 20);
  attended.q[19 * 16 + 3] = NAN;
  for (const AttentionRow* row : attention_rows(detected_isa()))
    EXPECT_TRUE(std::isnan(run(*row, attended, stored(*row, attended), {19})[0])) << row->name;
}

TEST(Attention, TheBestRowOfEachTypeIsChosen) {
  for (CacheType type : {CacheType::f32, CacheType::f16}) {
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
