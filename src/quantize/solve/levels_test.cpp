// Learned levels: which weights each table is learned from, which weights are kept apart, binary codings, and solving
// on tables.
#include "quantize/solve/levels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/random.h"
#include "quantize/solve/bell.h"
#include "quantize/solve/binary.h"
#include "quantize/solve/error.h"
#include "quantize/solve/gptq.h"
#include "quantize/solve/kmeans.h"
#include "quantize/solve/round.h"
#include "quantize/solve/sparse.h"

namespace nibble {
namespace {

FloatLayer random_layer(int64_t rows, int64_t columns, uint64_t seed) {
  Random random(seed);
  FloatLayer layer{"test", rows, columns, {}, {}};
  for (int64_t i = 0; i < rows * columns; ++i) layer.values.push_back(random.normal());
  return layer;
}

LayerForm form_in(const char* weights, std::vector<int32_t> kept = {}) {
  LayerForm form{};
  form.weights = *parse_format(weights);
  form.activations = *parse_format("f32");
  form.kept = std::move(kept);
  return form;
}

// Places of the sparse part, given row by row.
SparseWeights places(const std::vector<std::vector<int32_t>>& rows) {
  SparseWeights out;
  for (const auto& row : rows) {
    out.columns.insert(out.columns.end(), row.begin(), row.end());
    out.row_ends.push_back(static_cast<int32_t>(out.columns.size()));
  }
  return out;
}

std::vector<float> kmeans_of(const std::vector<float>& values, const std::vector<float>& weights, size_t count) {
  KMeans kmeans;
  std::vector<float> levels(count);
  kmeans.solve(values, weights, static_cast<int>(count));
  kmeans.levels(static_cast<int>(count), levels);
  return levels;
}

std::vector<float> part(const std::vector<float>& all, size_t begin, size_t count) {
  return {all.begin() + static_cast<std::ptrdiff_t>(begin), all.begin() + static_cast<std::ptrdiff_t>(begin + count)};
}

TEST(Levels, EveryTableIsLearnedFromItsOwnWeights) {
  ThreadPool pool(2);
  const FloatLayer layer = random_layer(5, 40, 3);
  Random random(4);
  Importance by_channel, by_weight;
  for (int k = 0; k < 40; ++k) by_channel.channels.push_back(0.1f + random.uniform());
  std::vector<float> weights_of_all(200);
  for (float& weight : weights_of_all) weight = 0.1f + random.uniform();
  by_weight.weights = weights_of_all;
  by_weight.width = 40;
  const std::vector<int32_t> dense = dense_columns_of(40, std::vector<int32_t>{7, 20});
  for (const char* format : {"code3:row", "code2:g16", "code2:col"})
    for (const Importance& importance : {Importance{}, by_channel, by_weight}) {
      LayerForm form = form_in(format, {7, 20});
      form.sparse = places({{0, 37}, {}, {5}, {5, 6, 7}, {37}});
      const std::vector<float> learned = learn_levels(layer, form, importance, make_kmeans, pool).levels;
      const auto count = static_cast<size_t>(form.weights.levels_count());
      const auto weight_of = [&](size_t n, size_t i) {
        const auto begin = form.sparse.columns.begin() + form.sparse.begin(static_cast<int64_t>(n)),
                   end = form.sparse.columns.begin() + form.sparse.end(static_cast<int64_t>(n));
        if (std::find(begin, end, static_cast<int32_t>(i)) != end) return 0.0f;
        const auto column = static_cast<size_t>(dense[i]);
        if (!importance.weights.empty()) return importance.weights[n * 40 + column];
        const bool cancels = form.weights.sharing == Sharing::column;
        return importance.channels.empty() || cancels ? 1 : importance.channels[column];
      };
      size_t table = 0;
      const auto expect_table = [&](const std::vector<std::pair<size_t, size_t>>& members) {
        std::vector<float> values, weights;
        for (const auto& [n, i] : members) {
          values.push_back(layer.row(static_cast<int64_t>(n))[static_cast<size_t>(dense[i])]);
          weights.push_back(weight_of(n, i));
        }
        EXPECT_EQ(part(learned, table++ * count, count), kmeans_of(values, weights, count)) << format << " " << table;
      };
      std::vector<std::pair<size_t, size_t>> members;
      const auto size = static_cast<size_t>(form.weights.group_size(38));
      if (form.weights.sharing == Sharing::column) {
        for (size_t i = 0; i < 38; ++i, members.clear()) {
          for (size_t n = 0; n < 5; ++n) members.emplace_back(n, i);
          expect_table(members);
        }
      } else {
        for (size_t n = 0; n < 5; ++n)
          for (size_t begin = 0; begin < 38; begin += size, members.clear()) {
            for (size_t i = begin; i < std::min<size_t>(begin + size, 38); ++i) members.emplace_back(n, i);
            expect_table(members);
          }
      }
      EXPECT_EQ(learned.size(), table * count);
    }
}

// Levels become integers under the exponents that they are given: the least that they can have, or greater ones. A
// column of many bits has no table.
TEST(Levels, AreRoundedToIntegers) {
  ThreadPool pool(1);
  const FloatLayer layer = random_layer(64, 3, 5);
  LayerForm form = form_in("code:col");
  form.widths = {2, 8, 5};
  form.learned = learn_levels(layer, form, {}, make_kmeans, pool);
  ASSERT_EQ(form.learned.levels.size(), 4u);
  ASSERT_EQ(form.learned.exponents.size(), 3u);
  const LinearWeight weight = begin_layer(layer, form, pool);
  ASSERT_TRUE(weight.validate("test"));
  double most = 0;
  for (size_t i = 0; i < 4; ++i) {
    const auto unit = static_cast<double>(std::ldexp(1.0f, form.learned.exponents[0]));
    EXPECT_NEAR(weight.levels[i], form.learned.levels[i], unit / 2);
    most = std::max(most, std::fabs(static_cast<double>(weight.levels[i])) / unit);
  }
  EXPECT_GE(most, 64);
  LayerForm coarse = form;
  coarse.learned.exponents[0] = static_cast<int8_t>(form.learned.exponents[0] + 3);
  EXPECT_TRUE(begin_layer(layer, coarse, pool).validate("test"));
  for (const auto& [column, bound] : {std::pair<int64_t, double>{1, 3e-4}, {2, 1.5e-2}}) {
    const Grid grid = weight.grid(0, column);
    double error = 0, energy = 0;
    for (int64_t n = 0; n < layer.rows; ++n) {
      const float x = layer.row(n)[static_cast<size_t>(column)];
      error += std::pow(static_cast<double>(grid.round(x) - x), 2);
      energy += std::pow(static_cast<double>(x), 2);
    }
    EXPECT_LT(error / energy, bound) << column;
  }
}

// An allocation of bits prices columns of more than four bits with fit_exponent: what they lose when they are stored.
TEST(Levels, WideColumnsLoseWhatTheyArePricedAt) {
  ThreadPool pool(2);
  const FloatLayer layer = random_layer(40, 8, 31);
  LayerForm form = form_in("code:col");
  form.widths = {5, 6, 7, 8, 8, 7, 6, 5};
  const LinearWeight solved = *round_to_nearest(layer, form, {}, pool);
  std::vector<double> lost(8);
  std::vector<float> row(8);
  for (int64_t n = 0; n < 40; ++n) {
    decode_row(solved, n, row);
    for (size_t k = 0; k < 8; ++k) lost[k] += std::pow(static_cast<double>(row[k] - layer.row(n)[k]), 2);
  }
  for (size_t k = 0; k < 8; ++k) {
    std::vector<float> column;
    for (int64_t n = 0; n < 40; ++n) column.push_back(layer.row(n)[k]);
    EXPECT_NEAR(lost[k] / fit_exponent(column, {}, form.widths[k]).cost, 1, 1e-6) << k;
  }
}

TEST(Sparse, ChoosesTheGreatestOfEachKind) {
  ThreadPool pool(2);
  FloatLayer layer = random_layer(20, 50, 6);
  for (size_t i = 0; i < 40; ++i) layer.values[25 * i] = 2.5f;  // equals
  Random random(7);
  Importance importance;
  for (int k = 0; k < 50; ++k) importance.channels.push_back(random.uniform());
  LayerForm form = form_in("code2:row");
  form.sparse = places(std::vector<std::vector<int32_t>>(20, {49}));
  choose_sparse(layer, form, {0.01, 0.02, 0.05, 0.03}, importance, make_kmeans, pool);

  std::vector<bool> taken(1000);
  for (size_t n = 0; n < 20; ++n) taken[n * 50 + 49] = true;
  const auto take = [&](size_t count, const auto& worth) {
    std::vector<std::pair<float, size_t>> order;
    for (size_t i = 0; i < 1000; ++i)
      if (!taken[i]) order.emplace_back(-worth(i), i);
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < count; ++i) taken[order[i].second] = true;
  };
  take(10, [&](size_t i) { return importance.channels[i % 50]; });
  take(20, [&](size_t i) { return importance.channels[i % 50] * layer.values[i] * layer.values[i]; });
  take(50, [&](size_t i) { return std::fabs(layer.values[i]); });
  std::vector<float> tables;
  for (size_t n = 0; n < 20; ++n) {
    std::vector<float> weights = importance.channels;
    for (size_t k = 0; k < 50; ++k)
      if (taken[n * 50 + k]) weights[k] = 0;
    const auto table = kmeans_of(part(layer.values, n * 50, 50), weights, 4);
    tables.insert(tables.end(), table.begin(), table.end());
  }
  take(30, [&](size_t i) {
    float least = std::numeric_limits<float>::infinity();
    for (size_t level = 0; level < 4; ++level)
      least = std::min(least, std::fabs(tables[i / 50 * 4 + level] - layer.values[i]));
    return importance.channels[i % 50] * (least * least);
  });
  std::vector<bool> chosen(1000);
  for (int64_t n = 0; n < 20; ++n)
    for (int64_t at = form.sparse.begin(n); at < form.sparse.end(n); ++at)
      chosen[static_cast<size_t>(n * 50 + form.sparse.columns[static_cast<size_t>(at)])] = true;
  EXPECT_EQ(chosen, taken);
}

TEST(Binary, CodesAreAllSumsOfTheirParts) {
  EXPECT_EQ(binary_codes(4, 2).size(), 252u);
  EXPECT_EQ(binary_codes(4, 3).size(), 145u);
  EXPECT_EQ(binary_codes(5, 2).size(), 2360u);
  EXPECT_EQ(binary_codes(5, 3).size(), 4361u);
  for (const BinaryCode& code : binary_codes(5, 3)) {
    const auto& l = code.levels;
    for (size_t i = 0; i + 1 < 8; ++i) ASSERT_LT(l[i], l[i + 1]);
    for (size_t i = 0; i < 4; ++i) ASSERT_EQ(l[i] + l[7 - i], l[0] + l[7]);  // the same about the centre
    ASSERT_LE(l[7], 31);
  }
}

// The codings that are best under the range's scale, each under every scale, each value by itself.
TEST(Binary, FindsTheOraclesLevels) {
  Random random(8);
  for (int trial = 0; trial < 6; ++trial) {
    std::vector<float> values(50), weights(50), levels(4);
    for (float& value : values) value = random.normal() * (random.uniform() < 0.1f ? 3 : 1);
    for (float& weight : weights) weight = random.uniform() < 0.2f ? 0 : random.uniform();
    make_binary({4, 5})()(values, weights, levels);
    double least = 0, greatest = 0, best = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < 50; ++i) {
      if (weights[i] == 0) continue;
      least = std::min(least, static_cast<double>(values[i]));
      greatest = std::max(greatest, static_cast<double>(values[i]));
    }
    const double whole = (greatest - least) / 15, zero = std::nearbyint(-least / whole);
    const auto cost_of = [&](const BinaryCode& code, double scale) {
      double cost = 0;
      for (size_t i = 0; i < 50; ++i) {
        const auto x = static_cast<double>(values[i]);
        const double step = std::clamp(std::nearbyint(x / scale + zero), 0.0, 15.0);
        size_t nearest = 0;
        for (size_t j = 1; j < 4; ++j)
          if (std::fabs(step - code.levels[j]) < std::fabs(step - code.levels[nearest])) nearest = j;
        cost += static_cast<double>(weights[i]) * std::pow(x - scale * (code.levels[nearest] - zero), 2);
      }
      return cost;
    };
    std::vector<BinaryCode> codes = binary_codes(4, 2);
    std::stable_sort(codes.begin(), codes.end(),
                     [&](const BinaryCode& a, const BinaryCode& b) { return cost_of(a, whole) < cost_of(b, whole); });
    codes.resize(kBinaryTries);
    std::vector<float> expected(4);
    for (int ratio = -5; ratio <= 5; ++ratio)
      for (const BinaryCode& code : codes) {
        const double scale = whole * (1 + 0.02 * ratio), cost = cost_of(code, scale);
        if (cost >= best - 1e-12) continue;
        best = cost;
        for (size_t j = 0; j < 4; ++j) expected[j] = static_cast<float>(scale * (code.levels[j] - zero));
      }
    EXPECT_EQ(levels, expected) << trial;
  }
}

TEST(Levels, SolversRoundToThemAndKeepWhatIsApart) {
  ThreadPool pool(2);
  const FloatLayer layer = random_layer(12, 48, 9);
  Random random(10);
  std::vector<float> x(200 * 48);
  for (size_t i = 0; i < x.size(); ++i) x[i] = random.normal() + (i % 48 == 0 ? 0 : 0.9f * x[i - 1]);
  Gram gram(48);
  gram.add(x.data(), 200, pool);
  for (const char* format : {"code2:row", "code2:col", "code2:g16"}) {
    LayerForm form = form_in(format, {11});
    choose_sparse(layer, form, {0, 0, 0.05, 0}, {}, make_kmeans, pool);
    form.learned = learn_levels(layer, form, {}, make_kmeans, pool);
    const std::vector<float> tables = begin_layer(layer, form, pool).levels;
    const auto rounded = round_to_nearest(layer, form, {}, pool);
    ASSERT_TRUE(rounded && rounded->validate("test")) << format;
    EXPECT_EQ(rounded->levels, tables);
    EXPECT_EQ(rounded->sparse.columns, form.sparse.columns);
    const std::vector<int32_t> dense = dense_columns_of(48, form.kept);
    std::vector<float> row(48);
    for (int64_t n = 0; n < 12; ++n) {
      decode_row(*rounded, n, row);
      const std::vector<Grid> grids = rounded->grids(n);
      for (size_t i = 0; i < dense.size(); ++i) {
        const auto column = static_cast<size_t>(dense[i]);
        const float w = layer.row(n)[column];
        const auto begin = form.sparse.columns.begin() + form.sparse.begin(n),
                   end = form.sparse.columns.begin() + form.sparse.end(n);
        const float level = grids[i / static_cast<size_t>(form.weights.group_size(47))].round(w);
        if (std::binary_search(begin, end, static_cast<int32_t>(i))) {
          EXPECT_NEAR(row[column], w, std::fabs(w - level) / 256) << format;
        } else {
          EXPECT_EQ(row[column], level) << format;
        }
      }
    }
    // GPTQ on the same tables.
    const auto factor =
        factorise(gram, column_order(ColumnOrder::natural, false, form.kept, {}, gram), 0.01, "test", pool);
    const auto solved = gptq(layer, form, *factor, {}, pool);
    ASSERT_TRUE(solved && solved->validate("test")) << format;
    EXPECT_EQ(solved->levels, tables);
    EXPECT_EQ(solved->sparse.columns, form.sparse.columns);
    const double whole = output_energy(layer, nullptr, gram, pool);
    const double error = output_error(layer, *solved, whole, gram, pool);
    EXPECT_LT(error, 0.8 * output_error(layer, *rounded, whole, gram, pool)) << format;
    EXPECT_GT(error, 0);
    // What it is compared with: the same tables, each weight by itself.
    const LinearWeight again = round_on_grids_of(*solved, layer, pool);
    EXPECT_EQ(again.codes, rounded->codes);
    EXPECT_EQ(again.sparse.values, rounded->sparse.values);
  }
  // Without tables of the form they are learned from all weights alike.
  LayerForm bare = form_in("code2:row");
  const auto rounded = round_to_nearest(layer, bare, {}, pool);
  bare.learned = learn_levels(layer, bare, {}, make_kmeans, pool);
  EXPECT_EQ(rounded->levels, begin_layer(layer, bare, pool).levels);
}

// Every set of magnitudes tried as the near one is worse than, or as good as, the threshold that is found; without
// weights all count alike.
TEST(Bell, SplitsMagnitudesWhereItCostsLeast) {
  Random random(12);
  for (int trial = 0; trial < 8; ++trial) {
    const size_t count = trial == 0 ? 1 : 9;
    std::vector<float> values(count), weights(count), levels(4);
    for (float& value : values) value = random.normal() * (random.uniform() < 0.2f ? 4 : 1);
    for (float& weight : weights) weight = trial % 2 == 0 ? 1 : random.uniform() < 0.2f ? 0 : random.uniform();
    make_bell()(values, trial % 2 == 0 ? std::span<const float>() : weights, levels);
    EXPECT_EQ(levels[0], -levels[3]);
    EXPECT_EQ(levels[1], -levels[2]);
    EXPECT_LE(levels[2], levels[3]);
    const auto cost_of = [&](double a, double b) {
      double cost = 0;
      for (size_t i = 0; i < count; ++i) {
        const double x = std::fabs(static_cast<double>(values[i]));
        cost += static_cast<double>(weights[i]) * std::min((x - a) * (x - a), (x - b) * (x - b));
      }
      return cost;
    };
    double best = std::numeric_limits<double>::infinity();
    for (size_t near = 0; near < size_t{1} << count; ++near) {
      double mass[2] = {}, moment[2] = {};
      for (size_t i = 0; i < count; ++i) {
        mass[near >> i & 1] += static_cast<double>(weights[i]);
        moment[near >> i & 1] += static_cast<double>(weights[i]) * std::fabs(static_cast<double>(values[i]));
      }
      const double a = mass[1] > 0 ? moment[1] / mass[1] : 0, b = mass[0] > 0 ? moment[0] / mass[0] : a;
      best = std::min(best, cost_of(mass[1] > 0 ? a : b, b));
    }
    EXPECT_NEAR(cost_of(static_cast<double>(levels[2]), static_cast<double>(levels[3])), best, 1e-3 * best + 1e-3)
        << trial;  // levels are rounded
  }
}

}  // namespace
}  // namespace nibble
