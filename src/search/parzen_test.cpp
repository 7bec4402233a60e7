#include "search/parzen.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace nibble::search {
namespace {

// The best at value 2 of every variable, each as important as its number.
double objective(const std::vector<int>& choice) {
  double sum = 0;
  for (size_t i = 0; i < choice.size(); ++i)
    sum -= static_cast<double>((i + 1) * static_cast<size_t>((choice[i] - 2) * (choice[i] - 2)));
  return sum;
}

double best_of(int trials, uint64_t seed, bool estimate) {
  const std::vector<int> sizes(12, 5);
  std::vector<ParzenTrial> history;
  ParzenOptions options;
  if (!estimate) options.startup = trials;
  for (int t = 0; t < trials; ++t) {
    Random random(seed * 1000 + static_cast<uint64_t>(t));
    const std::vector<int> choice = suggest(sizes, history, options, random);
    history.push_back({choice, objective(choice)});
  }
  return std::max_element(history.begin(), history.end(),
                          [](const auto& a, const auto& b) { return a.objective < b.objective; })
      ->objective;
}

TEST(Parzen, FindsMoreThanChance) {
  for (uint64_t seed = 1; seed <= 5; ++seed) EXPECT_GT(best_of(150, seed, true), best_of(150, seed, false) / 2) << seed;
}

TEST(Parzen, PrefersWhatGoodTrialsHaveAndOthersLack) {
  // Value 1 of the first variable in the good fifth of 20 trials only; the second variable says nothing, and the third
  // keeps the choices new.
  std::vector<ParzenTrial> history;
  for (int t = 0; t < 20; ++t) history.push_back({{t < 4 ? 1 : 0, t % 2, t}, t < 4 ? 1.0 : 0.0});
  ParzenOptions options;
  options.good = 0.2;
  Random random(1);
  int ones = 0, second = 0;
  for (int i = 0; i < 200; ++i) {
    const std::vector<int> choice = suggest(std::vector<int>{2, 2, 1000}, history, options, random);
    ones += choice[0];
    second += choice[1];
  }
  EXPECT_EQ(ones, 200);
  EXPECT_GT(second, 0);
}

TEST(Parzen, StartsAtRandomWithinTheSizes) {
  const std::vector<int> sizes = {1, 2, 7};
  std::vector<int> seen(7);
  Random random(3);
  for (int i = 0; i < 300; ++i) {
    const std::vector<int> choice = suggest(sizes, {}, {}, random);
    ASSERT_EQ(choice.size(), 3u);
    EXPECT_EQ(choice[0], 0);
    EXPECT_LT(choice[1], 2);
    ++seen.at(static_cast<size_t>(choice[2]));
  }
  for (int count : seen) EXPECT_GT(count, 15);
}

TEST(Parzen, IsTheSameForTheSameSeed) { EXPECT_EQ(best_of(60, 9, true), best_of(60, 9, true)); }

}  // namespace
}  // namespace nibble::search
