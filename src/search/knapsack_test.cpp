#include "search/knapsack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "core/random.h"

namespace nibble::search {
namespace {

struct Total {
  int64_t cost = 0;
  double loss = 0;
};

Total total_of(const std::vector<OptionClass>& classes, const std::vector<int>& numbers) {
  Total out;
  for (size_t i = 0; i < classes.size(); ++i) {
    const Option& option = classes[i].at(static_cast<size_t>(numbers[i]));
    out.cost += option.cost;
    out.loss += option.loss;
  }
  return out;
}

// Every choice there is.
Total brute_force(const std::vector<OptionClass>& classes, int64_t capacity) {
  Total best{0, std::numeric_limits<double>::infinity()};
  std::vector<int> numbers(classes.size(), 0);
  for (;;) {
    const Total total = total_of(classes, numbers);
    if (total.cost <= capacity && (total.loss < best.loss || (total.loss == best.loss && total.cost < best.cost)))
      best = total;
    size_t i = 0;
    while (i < classes.size() && ++numbers[i] == static_cast<int>(classes[i].size())) numbers[i++] = 0;
    if (i == classes.size()) return best;
  }
}

// A table over all costs: slow, and exact by construction.
double table(const std::vector<OptionClass>& classes, int64_t capacity) {
  std::vector<double> best(static_cast<size_t>(capacity) + 1, 0);
  for (const OptionClass& options : classes) {
    std::vector<double> next(best.size(), std::numeric_limits<double>::infinity());
    for (const Option& option : options)
      for (size_t c = static_cast<size_t>(option.cost); c < next.size(); ++c)
        next[c] = std::min(next[c], best[c - static_cast<size_t>(option.cost)] + option.loss);
    best = std::move(next);
  }
  return best.back();
}

double unit(Random& random) { return static_cast<double>(random.next() >> 11) * 0x1p-53; }

// `kinds`: 0 any losses; 1 falling with the cost, as those of formats; 2 few values, many ties.
std::vector<OptionClass> random_classes(Random& random, int classes, int options, uint64_t costs, int kind) {
  std::vector<OptionClass> out;
  for (int i = 0; i < classes; ++i) {
    OptionClass of;
    const double scale = unit(random);
    for (int k = 0, count = 1 + static_cast<int>(random.below(static_cast<uint64_t>(options))); k < count; ++k) {
      const auto cost = static_cast<int64_t>(random.below(costs));
      const double loss = kind == 0   ? unit(random) - 0.2
                          : kind == 1 ? scale / static_cast<double>(1 + cost * cost)
                                      : static_cast<double>(random.below(4));
      of.push_back({cost, loss});
    }
    out.push_back(std::move(of));
  }
  return out;
}

TEST(Knapsack, IsTheBestOfAllChoices) {
  Random random(1);
  for (int trial = 0; trial < 400; ++trial) {
    const auto classes = random_classes(random, 1 + trial % 6, 5, trial % 4 == 0 ? 1000003 : 12, trial % 3);
    const int64_t least = least_cost(classes), most = least + 1 + static_cast<int64_t>(random.below(30));
    for (int64_t capacity : {least, (least + most) / 2, most, int64_t{4000000}}) {
      const auto found = solve_knapsack(classes, capacity);
      ASSERT_TRUE(found);
      const Total total = total_of(classes, *found), best = brute_force(classes, capacity);
      EXPECT_LE(total.cost, capacity);
      EXPECT_NEAR(total.loss, best.loss, 1e-11) << trial;
    }
  }
}

TEST(Knapsack, AgreesWithATableOnManyClasses) {
  Random random(2);
  for (int trial = 0; trial < 20; ++trial) {
    const auto classes = random_classes(random, 60, 7, 40, trial % 3);
    const int64_t least = least_cost(classes);
    for (int64_t capacity : {least + 3, least + 150, least + 600}) {
      const auto found = solve_knapsack(classes, capacity);
      ASSERT_TRUE(found);
      EXPECT_LE(total_of(classes, *found).cost, capacity);
      EXPECT_NEAR(total_of(classes, *found).loss, table(classes, capacity), 1e-10) << trial;
    }
  }
}

TEST(Knapsack, CostsOfRealModelsHaveManyDigits) {
  // 80 blocks of 7 linears of 7 formats, no two costs with a common divisor worth mentioning.
  Random random(3);
  std::vector<OptionClass> classes;
  for (int i = 0; i < 560; ++i) {
    OptionClass of;
    const auto weights = static_cast<int64_t>(10000000 + random.below(100000000));
    double loss = 0.001 * unit(random);
    for (int bits = 2; bits <= 8; ++bits, loss *= 0.2 + 0.1 * unit(random))
      of.push_back({weights * (2 * bits + 1), loss});
    classes.push_back(std::move(of));
  }
  const int64_t least = least_cost(classes), capacity = least * 9 / 5 + 12345;
  const auto found = solve_knapsack(classes, capacity);
  ASSERT_TRUE(found);
  const Total total = total_of(classes, *found);
  EXPECT_LE(total.cost, capacity);
  // The Lagrangian bound holds for any price and is near the optimum at the best one.
  double bound = 0;
  for (double price = 1e-16; price < 1e-9; price *= 1.02) {
    double sum = -price * static_cast<double>(capacity);
    for (const OptionClass& of : classes) {
      double best = std::numeric_limits<double>::infinity();
      for (const Option& option : of) best = std::min(best, option.loss + price * static_cast<double>(option.cost));
      sum += best;
    }
    bound = std::max(bound, sum);
  }
  EXPECT_GE(total.loss, bound);
  EXPECT_LT(total.loss, bound * 1.003);
}

TEST(Knapsack, CapacitiesBelowTheLeastAreImpossible) {
  const std::vector<OptionClass> classes = {{{5, 1}, {3, 2}}, {{4, 0}}};
  EXPECT_EQ(least_cost(classes), 7);
  EXPECT_FALSE(solve_knapsack(classes, 6));
  EXPECT_EQ(solve_knapsack(classes, 7), (std::vector<int>{1, 0}));
  EXPECT_EQ(solve_knapsack(classes, 8), (std::vector<int>{1, 0}));
  EXPECT_EQ(solve_knapsack(classes, 9), (std::vector<int>{0, 0}));
  EXPECT_EQ(solve_knapsack(classes, INT64_MAX), (std::vector<int>{0, 0}));
}

}  // namespace
}  // namespace nibble::search
