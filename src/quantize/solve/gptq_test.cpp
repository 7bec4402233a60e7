#include "quantize/solve/gptq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/half.h"
#include "core/random.h"
#include "quantize/solve/apportion_step.h"
#include "quantize/solve/error.h"
#include "quantize/solve/round.h"
#include "quantize/solve/split.h"

namespace nibble {
namespace {

NumberFormat format_of(const char* text) { return *parse_format(text); }

// A layer and its correlated input, a few channels of which are loud and one of which may be silent.
struct Case {
  FloatLayer layer;
  std::vector<float> x;
  int64_t tokens = 0;
  std::vector<float> absmax;
  Gram gram;
};

Case random_case(uint64_t seed, int64_t rows, int64_t columns, int64_t tokens, bool silent, ThreadPool& pool) {
  Random random(seed);
  Case c;
  c.layer = {"test", rows, columns, {}, {}};
  for (int64_t i = 0; i < rows * columns; ++i) c.layer.values.push_back(random.normal());
  const int64_t hidden = 6;
  std::vector<float> mix;
  for (int64_t i = 0; i < hidden * columns; ++i) mix.push_back(random.normal());
  for (int64_t m = 0; m < tokens; ++m) {
    std::vector<float> z;
    for (int64_t h = 0; h < hidden; ++h) z.push_back(random.normal());
    for (int64_t k = 0; k < columns; ++k) {
      float value = 0.5f * random.normal();
      for (int64_t h = 0; h < hidden; ++h)
        value += mix[static_cast<size_t>(h * columns + k)] * z[static_cast<size_t>(h)];
      if (k % 11 == 3) value *= 20;
      if (silent && k == columns / 2) value = 0;
      c.x.push_back(value);
    }
  }
  c.tokens = tokens;
  c.absmax.assign(static_cast<size_t>(columns), 0);
  EXPECT_TRUE(observe_absmax(c.x.data(), tokens, c.absmax, "test", pool));
  c.gram = Gram(columns);
  c.gram.add(c.x.data(), tokens, pool);
  return c;
}

// The textbook, in long double and without Cholesky factors: after a column is rounded, the optimal update of the
// remaining ones is  -(w_k - q) / [F^-1]_kk * [F^-1]_k,rest  with F the Hessian of what remains, and removing the
// column from F is one step of Gaussian elimination on the inverse. The diagonal of that inverse is U_kk^2.
struct Naive {
  using Real = long double;
  std::vector<std::vector<Real>> inverse;

  static std::vector<std::vector<Real>> invert(std::vector<std::vector<Real>> a) {
    const size_t n = a.size();
    std::vector<std::vector<Real>> b(n, std::vector<Real>(n, 0));
    for (size_t i = 0; i < n; ++i) b[i][i] = 1;
    for (size_t i = 0; i < n; ++i) {
      const Real pivot = a[i][i];
      for (size_t j = 0; j < n; ++j) a[i][j] /= pivot, b[i][j] /= pivot;
      for (size_t r = 0; r < n; ++r) {
        if (r == i) continue;
        const Real factor = a[r][i];
        for (size_t j = 0; j < n; ++j) a[r][j] -= factor * a[i][j], b[r][j] -= factor * b[i][j];
      }
    }
    return b;
  }

  void remove(size_t k) {
    for (size_t i = k + 1; i < inverse.size(); ++i)
      for (size_t j = k + 1; j < inverse.size(); ++j) inverse[i][j] -= inverse[i][k] * inverse[k][j] / inverse[k][k];
  }
};

struct NaiveResult {
  std::vector<std::vector<int>> codes;   // [N][I] in stored order
  std::vector<std::vector<float>> kept;  // [N][kept], ascending columns
  std::vector<std::vector<int>> present;
};

struct NaiveOptions {
  double damp = 0.01;
  bool late_groups = false, sparse24 = false;
  Clip clip;
};

NaiveResult naive_gptq(const Case& c, const NumberFormat& format, const std::vector<int32_t>& kept,
                       const std::vector<int32_t>& order, const NaiveOptions& options) {
  using Real = Naive::Real;
  const size_t columns = static_cast<size_t>(c.layer.columns), dense = columns - kept.size();
  std::vector<std::vector<Real>> h(columns, std::vector<Real>(columns, 0));
  std::vector<bool> dead(columns);
  Real trace = 0;
  for (size_t i = 0; i < columns; ++i) {
    for (size_t j = 0; j < columns; ++j)
      h[i][j] = 2.0L / static_cast<Real>(c.tokens) * static_cast<Real>(c.gram.at(order[i], order[j]));
    dead[i] = h[i][i] == 0;
    if (dead[i]) h[i][i] = 1;
    trace += h[i][i];
  }
  for (size_t i = 0; i < columns; ++i) h[i][i] += static_cast<Real>(options.damp) * trace / static_cast<Real>(columns);
  const auto inverse = Naive::invert(h);
  const std::vector<int32_t> stored_columns = dense_columns_of(c.layer.columns, kept);
  const size_t group = static_cast<size_t>(format.group_size(static_cast<int64_t>(dense)));
  const auto n_rows = static_cast<size_t>(c.layer.rows);
  NaiveResult result{std::vector(n_rows, std::vector<int>(dense)), std::vector(n_rows, std::vector<float>(kept.size())),
                     std::vector(n_rows, std::vector<int>(dense, 1))};
  for (size_t n = 0; n < n_rows; ++n) {
    const auto original = c.layer.row(static_cast<int64_t>(n));
    std::vector<Grid> grids;
    for (size_t g = 0; g < dense; g += group) {
      std::vector<float> values;
      for (size_t k = g; k < std::min(dense, g + group); ++k)
        values.push_back(original[static_cast<size_t>(stored_columns[k])]);
      grids.push_back(choose_grid(values, format, options.clip));
    }
    std::vector<Real> w;
    for (size_t p = 0; p < columns; ++p)
      w.push_back(dead[p] ? 0 : static_cast<Real>(original[static_cast<size_t>(order[p])]));
    Naive state{inverse};
    for (size_t p = 0; p < dense; ++p) {
      const size_t at = static_cast<size_t>(std::lower_bound(stored_columns.begin(), stored_columns.end(), order[p]) -
                                            stored_columns.begin());
      if (options.late_groups && p % group == 0) {
        std::vector<float> values;
        for (size_t k = p; k < std::min(dense, p + group); ++k) values.push_back(static_cast<float>(w[k]));
        grids[p / group] = choose_grid(values, format, options.clip);
      }
      if (options.sparse24 && p % 4 == 0) {
        // The diagonal of U at k, given everything before the four and inside it up to k.
        Naive ahead = state;
        std::vector<std::pair<Real, size_t>> worth;
        for (size_t k = p; k < p + 4; ++k) {
          worth.emplace_back(w[k] * w[k] / ahead.inverse[k][k], k);
          ahead.remove(k);
        }
        std::sort(worth.begin(), worth.end());
        result.present[n][worth[0].second] = result.present[n][worth[1].second] = 0;
      }
      const Grid& grid = grids[at / group];
      const int code = result.present[n][at] ? grid.encode(static_cast<float>(w[p])) : grid.offset;
      const Real error = w[p] - static_cast<Real>(grid.decode(code));
      for (size_t c2 = p + 1; c2 < columns; ++c2) w[c2] -= error / state.inverse[p][p] * state.inverse[p][c2];
      result.codes[n][at] = code;
      state.remove(p);
    }
    for (size_t p = dense; p < columns; ++p) {
      const auto at = std::lower_bound(kept.begin(), kept.end(), order[p]) - kept.begin();
      result.kept[n][static_cast<size_t>(at)] = static_cast<float>(w[p]);
    }
  }
  return result;
}

void expect_equal(const LinearWeight& found, const NaiveResult& expected, const std::string& what) {
  ASSERT_TRUE(found.validate(what)) << found.validate(what).error().message;
  std::vector<uint8_t> codes(static_cast<size_t>(found.dense_columns()));
  for (int64_t n = 0; n < found.rows; ++n) {
    decode_codes(found, n, codes);
    const auto& row = expected.codes[static_cast<size_t>(n)];
    ASSERT_EQ(std::vector<int>(codes.begin(), codes.end()), row) << what << ", row " << n;
    for (size_t i = 0; i < found.kept_columns.size(); ++i) {
      const float kept = f16_to_f32(found.kept[static_cast<size_t>(n) * found.kept_columns.size() + i]);
      const float wanted = expected.kept[static_cast<size_t>(n)][i];
      ASSERT_NEAR(kept, wanted, std::fabs(wanted) * 0x1p-10f + 1e-6f) << what;
    }
  }
}

// Solves one case both ways.
void compare(uint64_t seed, int64_t rows, int64_t columns, const char* format, int64_t kept_columns, ColumnOrder order,
             bool sparse24, Clip clip, int64_t block) {
  ThreadPool pool(2);
  const Case c = random_case(seed, rows, columns, columns * 3, seed % 2 == 1, pool);
  const LayerForm form{format_of(format), format_of("f32"), loudest_columns(c.absmax, kept_columns), sparse24};
  const auto positions = column_order(order, sparse24, form.kept, c.absmax, c.gram);
  const auto factor = factorise(c.gram, positions, 0.01, "test", pool);
  ASSERT_TRUE(factor);
  const auto solved = gptq(c.layer, form, *factor, {order, block, clip}, pool);
  ASSERT_TRUE(solved);
  const bool late = form.weights.sharing == Sharing::group && (order == ColumnOrder::natural || sparse24);
  expect_equal(*solved, naive_gptq(c, form.weights, form.kept, positions, {0.01, late, sparse24, clip}),
               fmt::format("seed {} {}x{} {} kept {} block {}", seed, rows, columns, format, kept_columns, block));
}

TEST(Gptq, EqualsTheTextbookOnRandomLayers) {
  uint64_t seed = 0;
  for (const char* format : {"int4:row", "int8:row", "int3:g16", "int4:g24:asym", "int4:row:asym"})
    for (ColumnOrder order : {ColumnOrder::natural, ColumnOrder::kept_last, ColumnOrder::activation})
      for (int64_t kept : {0, 4})
        for (int64_t block : {128, 8}) {
          if (kept == 0 && order == ColumnOrder::kept_last) continue;
          ++seed;
          compare(seed, 5, 32 + static_cast<int64_t>(seed % 5) * 4, format, kept, order, false,
                  {seed % 3 == 0 ? 80 : 1, 2.4}, block);
        }
  EXPECT_GE(seed, 40u);
}

TEST(Gptq, EqualsTheTextbookWithAPattern) {
  for (uint64_t seed = 100; seed < 112; ++seed)
    compare(seed, 6, 40, seed % 2 ? "int4:row" : "int4:g16", seed % 3 == 0 ? 0 : 4,
            seed % 2 ? ColumnOrder::kept_last : ColumnOrder::natural, true, {1, 2.4}, seed % 4 == 0 ? 128 : 12);
}

TEST(Gptq, PatternHasTwoOfFour) {
  ThreadPool pool(1);
  const Case c = random_case(7, 9, 44, 200, false, pool);
  const LayerForm form{format_of("int4:row"), format_of("f32"), loudest_columns(c.absmax, 4), true};
  const auto factor =
      factorise(c.gram, column_order(ColumnOrder::kept_last, true, form.kept, c.absmax, c.gram), 0.01, "test", pool);
  const auto solved = gptq(c.layer, form, *factor, {ColumnOrder::kept_last, 128, {}}, pool);
  ASSERT_TRUE(solved && solved->validate("test"));
  std::vector<float> row(44);
  const auto dense = dense_columns_of(44, form.kept);
  for (int64_t n = 0; n < 9; ++n) {
    decode_row(*solved, n, row);
    for (size_t quad = 0; quad < 10; ++quad) {
      int present = 0;
      for (size_t k = 0; k < 4; ++k) present += row[static_cast<size_t>(dense[quad * 4 + k])] != 0;
      EXPECT_LE(present, 2);
    }
  }
}

TEST(Gptq, BeatsRoundingOnTheSameGrids) {
  ThreadPool pool(2);
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const Case c = random_case(seed, 24, 64, 512, false, pool);
    for (int64_t kept : {0, 6})
      for (ColumnOrder order : {ColumnOrder::natural, ColumnOrder::kept_last, ColumnOrder::activation}) {
        const LayerForm form{format_of("int4:row"), format_of("f32"), loudest_columns(c.absmax, kept), false};
        const auto factor =
            factorise(c.gram, column_order(order, false, form.kept, c.absmax, c.gram), 0.01, "test", pool);
        const auto solved = gptq(c.layer, form, *factor, {order, 128, {80, 2.4}}, pool);
        const LinearWeight rounded = round_on_grids_of(*solved, c.layer, pool);
        EXPECT_LT(output_energy(c.layer, &*solved, c.gram, pool), 0.7 * output_energy(c.layer, &rounded, c.gram, pool));
      }
  }
}

TEST(Gptq, DeadColumnsBecomeZeroOrAreRounded) {
  ThreadPool pool(1);
  const Case c = random_case(3, 6, 20, 100, true, pool);  // column 10 is silent
  const LayerForm form{format_of("int4:row"), format_of("f32"), {}, false};
  const auto factor = factorise(c.gram, column_order(ColumnOrder::natural, false, {}, {}, c.gram), 0.01, "test", pool);
  GptqOptions options;
  std::vector<float> zeroed(20), rounded(20), nearest(20);
  const LinearWeight zero = *gptq(c.layer, form, *factor, options, pool);
  options.zero_dead = false;
  const LinearWeight round = *gptq(c.layer, form, *factor, options, pool);
  const LinearWeight plain = *round_to_nearest(c.layer, form, {}, pool);
  for (int64_t n = 0; n < 6; ++n) {
    decode_row(zero, n, zeroed);
    decode_row(round, n, rounded);
    decode_row(plain, n, nearest);
    EXPECT_EQ(zeroed[10], 0);
    EXPECT_EQ(rounded[10], nearest[10]);
    // Nothing else changes: no error passes into or out of a dead column.
    zeroed[10] = rounded[10];
    EXPECT_EQ(zeroed, rounded);
  }
}

TEST(Gptq, DoesNotDependOnThreads) {
  ThreadPool one(1);
  const Case c = random_case(5, 70, 96, 300, true, one);
  const LayerForm form{format_of("int4:row"), format_of("f32"), loudest_columns(c.absmax, 6), false};
  const auto order = column_order(ColumnOrder::kept_last, false, form.kept, c.absmax, c.gram);
  std::vector<LinearWeight> solved;
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    Gram gram(96);
    gram.add(c.x.data(), c.tokens, pool);
    const auto factor = factorise(gram, order, 0.01, "test", pool);
    solved.push_back(*gptq(c.layer, form, *factor, {ColumnOrder::kept_last, 32, {80, 2.4}}, pool));
  }
  for (const LinearWeight& other : solved) {
    EXPECT_EQ(other.codes, solved[0].codes);
    EXPECT_EQ(other.scales, solved[0].scales);
    EXPECT_EQ(other.kept, solved[0].kept);
  }
}

TEST(Gptq, OrdersColumns) {
  ThreadPool pool(1);
  Case c = random_case(1, 1, 6, 50, false, pool);
  c.absmax = {3, 9, 1, 9, 2, 1};
  const std::vector<int32_t> kept = loudest_columns(c.absmax, 2);
  EXPECT_EQ(kept, (std::vector<int32_t>{1, 3}));
  const auto order = [&](ColumnOrder which, bool stored, std::span<const int32_t> columns) {
    return column_order(which, stored, columns, c.absmax, c.gram);
  };
  using Columns = std::vector<int32_t>;
  EXPECT_EQ(order(ColumnOrder::natural, false, kept), (Columns{0, 2, 4, 5, 1, 3}));
  EXPECT_EQ(order(ColumnOrder::kept_last, false, kept), (Columns{2, 5, 4, 0, 1, 3}));
  EXPECT_EQ(order(ColumnOrder::kept_last, true, kept), (Columns{0, 2, 4, 5, 1, 3}));
  EXPECT_EQ(order(ColumnOrder::kept_last, false, {}), (Columns{0, 1, 2, 3, 4, 5}));
  const Columns active = order(ColumnOrder::activation, false, kept);
  for (size_t i = 0; i + 1 < 4; ++i)
    EXPECT_GE(c.gram.at(active[i], active[i]), c.gram.at(active[i + 1], active[i + 1]));
}

TEST(Gptq, RaisesDampingUntilTheMatrixIsDefinite) {
  ThreadPool pool(1);
  // Two equal channels and no damping: singular.
  std::vector<float> x;
  Random random(3);
  for (int m = 0; m < 40; ++m) {
    const float value = std::round(random.normal() * 8);
    x.insert(x.end(), {value, value, std::round(random.normal() * 8)});
  }
  Gram gram(3);
  gram.add(x.data(), 40, pool);
  const auto factor = factorise(gram, {0, 1, 2}, 0, "test", pool);
  ASSERT_TRUE(factor);
  EXPECT_EQ(factor->damp, 1e-4);
  const auto plenty = factorise(gram, {0, 1, 2}, 0.5, "test", pool);
  EXPECT_EQ(plenty->damp, 0.5);
}

TEST(Gptq, NamesTheLayerWhoseMatrixCannotBeSaved) {
  ThreadPool pool(1);
  const std::vector<float> x = {1e30f, 1e30f, -1e30f, 1e30f};
  Gram gram(2);
  gram.add(x.data(), 2, pool);
  const auto factor = factorise(gram, {0, 1}, 0.01, "blocks.3.down", pool);
  ASSERT_FALSE(factor);
  EXPECT_NE(factor.error().message.find("blocks.3.down"), std::string::npos);
}

LinearWork open_work(SiteWork& site, const Case& c) {
  return {site, c.layer, format_of("int:g8:asym"), format_of("f32"), {}, -1};
}

std::vector<uint8_t> apportioned(const char* parameters, SiteWork& site, const Case& c, ThreadPool& pool) {
  const Json source = *parse_json(parameters, "test");
  JsonReader reader = *JsonReader::open(source, "step", ErrorCode::usage);
  LinearWork work = open_work(site, c);
  EXPECT_TRUE((*read_apportion(reader))->apply_to_linear(work, pool));
  return work.widths;
}

// The error that each rule looks at is never above that of the same bits everywhere, and below it on loud channels; the
// sum of bits is what was asked for, over linears where one cannot meet it.
TEST(Apportion, LosesLessThanTheSameBitsEverywhere) {
  ThreadPool pool(2);
  for (uint64_t seed : {1, 2, 3}) {
    const Case c = random_case(seed, 24, 76, 300, false, pool);  // ten groups, the last one of four
    SiteStatistics statistics;
    statistics.gram = Gram(76);
    statistics.gram.add(c.x.data(), c.tokens, pool);
    SiteWork site{"site", 76, 76, false, &statistics, {}, {}, Levels::f16, format_of("f32"), 0};
    LayerForm form{format_of("int:g8:asym"), format_of("f32"), {}, false};
    const auto error_of = [&](const std::vector<uint8_t>& widths) {
      form.widths = widths;
      const LinearWeight solved = *round_to_nearest(c.layer, form, {}, pool);
      return output_energy(c.layer, &solved, c.gram, pool);
    };
    for (int bits : {2, 3}) {
      const auto widths = apportioned(
          fmt::format(R"({{"bits": {}, "count": "codes", "by": "salience", "most": 4}})", bits).c_str(), site, c, pool);
      const std::vector<uint8_t> uniform(76, static_cast<uint8_t>(bits));
      EXPECT_EQ(MixedSizes::of(widths).code_bits, 76 * bits);
      EXPECT_LE(error_of(widths), error_of(uniform));
      EXPECT_NE(widths, uniform);
    }
    // What GPTQ loses, with what it expects to lose as the guide.
    site.shared.clear();
    double left = 0;
    for (int linear = 0; linear < 4; ++linear) {
      const auto widths = apportioned(R"({"bits": 2.6, "count": "codes", "by": "error", "most": 4})", site, c, pool);
      left += 24 * (2.6 * 76 - static_cast<double>(MixedSizes::of(widths).code_bits));
      EXPECT_NEAR(site.left_over, left, 1e-9);
      EXPECT_LE(std::abs(site.left_over), 24 * 4 + 1e-9);
    }
    const auto factor =
        *factorise(c.gram, column_order(ColumnOrder::natural, false, {}, {}, c.gram), 0.01, "test", pool);
    const auto lost = [&](const std::vector<uint8_t>& widths) {
      form.widths = widths;
      const LinearWeight solved = *gptq(c.layer, form, factor, {}, pool);
      return output_energy(c.layer, &solved, c.gram, pool);
    };
    site.left_over = 0;
    EXPECT_LT(lost(apportioned(R"({"bits": 3, "count": "codes", "by": "error", "most": 4})", site, c, pool)),
              lost(std::vector<uint8_t>(76, 3)));
  }
}

// Groups are of the columns that are not kept, and what is kept counts: the matrix is as large as was asked for.
TEST(Apportion, CountsKeptColumns) {
  ThreadPool pool(2);
  constexpr int64_t kRows = 24, kColumns = 76;
  const Case c = random_case(7, kRows, kColumns, 300, false, pool);
  SiteStatistics statistics;
  statistics.gram = Gram(kColumns);
  statistics.gram.add(c.x.data(), c.tokens, pool);
  const std::vector<int32_t> kept = {3, 40, 75};
  for (const double bits : {5.5, 7.25}) {
    SiteWork site{"site", kColumns, kColumns, false, &statistics, kept, {}, Levels::f16, format_of("f32"), 0};
    const auto widths = apportioned(fmt::format(R"({{"bits": {}}})", bits).c_str(), site, c, pool);
    ASSERT_EQ(widths.size(), 73u);
    for (size_t k = 1; k < widths.size(); ++k) {
      if (k % 8 != 0) {
        EXPECT_EQ(widths[k], widths[k - 1]) << k;
      }
    }
    LayerForm form{format_of("int:g8:asym"), format_of("f32"), kept, false};
    form.widths = widths;
    const auto factor =
        *factorise(c.gram, column_order(ColumnOrder::natural, false, kept, {}, c.gram), 0.01, "test", pool);
    const LinearWeight solved = *gptq(c.layer, form, factor, {}, pool);
    ASSERT_TRUE(solved.validate("test"));
    const double asked = bits * kRows * kColumns;
    EXPECT_LE(std::abs(site.left_over), kRows * 4);  // half a group
    // Rows of codes end at a byte.
    EXPECT_NEAR(8 * static_cast<double>(solved.matrix_bytes()) + site.left_over, asked, 8 * kRows);
  }
  // Codes alone are those that are not kept.
  SiteWork site{"site", kColumns, kColumns, false, &statistics, kept, {}, Levels::f16, format_of("f32"), 0};
  const auto three = apportioned(R"({"bits": 3, "count": "codes", "most": 4})", site, c, pool);
  EXPECT_NEAR(static_cast<double>(MixedSizes::of(three).code_bits), 3 * 73, 4);
  // 4.7 bits would do without columns that are kept.
  const Json source = *parse_json(R"({"bits": 4.7})", "test");
  JsonReader reader = *JsonReader::open(source, "step", ErrorCode::usage);
  const StepPointer step = *read_apportion(reader);
  LinearWork work = open_work(site, c);
  const Status refused = step->apply_to_linear(work, pool);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::usage);
  EXPECT_NE(refused.error().message.find("test: 4.7 bits a weight are too few for int:g8:asym; the least is "),
            std::string::npos)
      << refused.error().message;
  site.kept.clear();
  site.shared.clear();
  EXPECT_TRUE(step->apply_to_linear(work, pool));
}

// Scales that go by what GPTQ makes of errors lose less in its own terms than those of the least plain error.
TEST(Gptq, ScalesBySalienceLoseLess) {
  ThreadPool pool(2);
  double plain = 0, salient = 0;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    const Case c = random_case(seed, 32, 64, 300, false, pool);
    const auto factor =
        *factorise(c.gram, column_order(ColumnOrder::natural, false, {}, {}, c.gram), 0.01, "test", pool);
    const LayerForm form{format_of("int2:g16:asym"), format_of("f32"), {}, false};
    for (const bool by_salience : {false, true}) {
      GptqOptions options;
      options.clip = {60, 2, 0, by_salience};
      const LinearWeight solved = *gptq(c.layer, form, factor, options, pool);
      (by_salience ? salient : plain) += output_energy(c.layer, &solved, c.gram, pool);
    }
  }
  EXPECT_LT(salient, plain);
}

}  // namespace
}  // namespace nibble
