#include "quantize/solve/allocate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/random.h"
#include "quantize/solve/apportion.h"

namespace nibble {
namespace {

ChannelBits bits_of(int least, int most, int64_t unit, double rows, double table = 0) {
  ChannelBits bits{least, most, {}, unit};
  for (int width = least; width <= most; ++width) bits.stored[width] = rows * width + table * (1 << width);
  return bits;
}

TEST(WidthsByNorm, AFractionOfTheLoudestGetsOneBitMore) {
  std::vector<double> norms;
  for (int i = 0; i < 320; ++i) norms.push_back((i * 37) % 320);
  const ChannelBits bits = bits_of(1, 8, 32, 100);
  const auto widths = widths_by_norm(norms, bits, 2.2 * 320 * 100, 0);  // 20 % at 3 bits
  for (size_t i = 0; i < norms.size(); ++i) EXPECT_EQ(widths[i], norms[i] >= 256 ? 3 : 2) << i;
  EXPECT_EQ(bits.of(widths), 2.2 * 320 * 100);
  // Whole units, to the nearest: 2.24 is 2.4 units of 32.
  EXPECT_EQ(widths_by_norm(norms, bits, 2.24 * 320 * 100, 0), widths);
  // Less than there is, and more.
  EXPECT_EQ(widths_by_norm(norms, bits, 5, 0), std::vector<uint8_t>(320, 1));
  EXPECT_EQ(widths_by_norm(norms, bits, 1e9, 0), std::vector<uint8_t>(320, 8));
}

TEST(WidthsByNorm, SwapsBitsBetweenLoudAndQuietChannels) {
  std::vector<double> norms;
  for (int i = 0; i < 320; ++i) norms.push_back(i);
  const auto widths = widths_by_norm(norms, bits_of(1, 8, 32, 100), 3.0 * 320 * 100, 0.1);
  for (size_t i = 0; i < norms.size(); ++i) EXPECT_EQ(widths[i], i < 32 ? 2 : i >= 288 ? 4 : 3) << i;
}

// Random convex costs that fall about fourfold a bit.
std::vector<double> random_costs(Random& random, int64_t channels) {
  std::vector<double> costs;
  for (int64_t i = 0; i < channels; ++i) {
    double cost = std::exp(3 * static_cast<double>(random.normal()));
    for (int width = 0; width <= kMostWidth; ++width, cost *= 0.2 + 0.1 * static_cast<double>(random.uniform()))
      costs.push_back(cost);
  }
  return costs;
}

// The least cost of `left` bits for channels from `i` on, by trying everything.
double least_cost(const std::vector<double>& costs, size_t i, int left, int least, int most) {
  if (i == costs.size() / (kMostWidth + 1)) return 0;
  double best = std::numeric_limits<double>::infinity();
  for (int width = least; width <= std::min(most, left); ++width)
    best = std::min(best, costs[i * (kMostWidth + 1) + static_cast<size_t>(width)] +
                              least_cost(costs, i + 1, left - width, least, most));
  return best;
}

double cost_of(const std::vector<double>& costs, const std::vector<uint8_t>& widths) {
  double sum = 0;
  for (size_t i = 0; i < widths.size(); ++i) sum += costs[i * (kMostWidth + 1) + widths[i]];
  return sum;
}

TEST(WidthsByCost, NoOtherWidthsOfTheSameBitsCostLess) {
  Random random(3);
  for (int trial = 0; trial < 30; ++trial) {
    const std::vector<double> costs = random_costs(random, 7);
    const int total = 9 + static_cast<int>(random.below(16));
    const auto widths = widths_by_cost(costs, bits_of(1, 4, 1, 10), 10 * total);
    int used = 0;
    for (const uint8_t width : widths) used += width;
    EXPECT_EQ(used, total);
    EXPECT_DOUBLE_EQ(cost_of(costs, widths), least_cost(costs, 0, total, 1, 4));
  }
}

TEST(WidthsByCost, KeepsWholeUnitsAndCountsTables) {
  Random random(4);
  const std::vector<double> costs = random_costs(random, 256);
  const ChannelBits bits = bits_of(1, 4, 32, 100, 16);
  for (const double wanted : {2.5, 3.0, 3.7}) {
    const auto widths = widths_by_cost(costs, bits, wanted * 256 * 100);
    for (uint8_t width = 1; width <= 4; ++width) EXPECT_EQ(std::count(widths.begin(), widths.end(), width) % 32, 0);
    const double largest_unit = 32 * (bits.stored[4] - bits.stored[3]);
    EXPECT_NEAR(bits.of(widths), wanted * 256 * 100, largest_unit / 2);
  }
}

TEST(BitsByRank, AsManyGroupsGainABitAsLoseOne) {
  const std::vector<double> salience = {3, 9, 1, 7, 5, 5, 8};
  const std::vector<int64_t> even(7, 128), uneven = {128, 128, 128, 128, 128, 128, 64};
  EXPECT_EQ(bits_by_rank(salience, even, 2, 2), (std::vector<uint8_t>{1, 3, 1, 2, 2, 2, 3}));
  // The shorter last group is left out, and of equals the lower one is the more salient.
  EXPECT_EQ(bits_by_rank(salience, uneven, 3, 2), (std::vector<uint8_t>{2, 4, 2, 4, 3, 3, 3}));
  EXPECT_EQ(bits_by_rank(salience, uneven, 3, 9), (std::vector<uint8_t>{2, 4, 2, 4, 4, 2, 3}));
}

// The least cost of groups from `g` on within so many bits, by trying everything.
double least_of_groups(const std::vector<double>& costs, const std::vector<int64_t>& sizes, size_t g, int64_t left,
                       int least, int most) {
  if (g == sizes.size()) return left < 0 ? std::numeric_limits<double>::infinity() : 0;
  double best = std::numeric_limits<double>::infinity();
  for (int bits = least; bits <= most; ++bits)
    best = std::min(best, costs[g * (kMostWidth + 1) + static_cast<size_t>(bits)] +
                              least_of_groups(costs, sizes, g + 1, left - sizes[g] * bits, least, most));
  return best;
}

// Costs that need not be convex, nor even fall; a last group that may be shorter.
TEST(BitsByCost, IsTheBestOfAllWays) {
  Random random(3);
  for (int round = 0; round < 60; ++round) {
    const size_t groups = 1 + random.below(5);
    std::vector<int64_t> sizes(groups, 8);
    if (round % 2 == 1) sizes.back() = 1 + static_cast<int64_t>(random.below(7));
    std::vector<double> costs;
    for (size_t i = 0; i < groups * (kMostWidth + 1); ++i)
      costs.push_back(std::exp(static_cast<double>(random.normal()) - static_cast<double>(i % (kMostWidth + 1))));
    const int least = 1 + static_cast<int>(random.below(2)), most = 4;
    int64_t columns = 0;
    for (const int64_t size : sizes) columns += size;
    const double budget = static_cast<double>(columns) * (least + 3 * static_cast<double>(random.uniform()));
    const auto bits = bits_by_cost(costs, sizes, least, most, budget);
    ASSERT_EQ(bits.size(), groups);
    double cost = 0;
    int64_t spent = 0;
    for (size_t g = 0; g < groups; ++g) {
      ASSERT_TRUE(bits[g] >= least && bits[g] <= most);
      cost += costs[g * (kMostWidth + 1) + bits[g]];
      spent += sizes[g] * bits[g];
    }
    const auto affordable = static_cast<int64_t>(std::floor(budget + static_cast<double>(sizes[0]) / 2));
    EXPECT_LE(spent, affordable);
    EXPECT_NEAR(cost, least_of_groups(costs, sizes, 0, affordable, least, most), 1e-12) << round;
  }
  EXPECT_EQ(bits_by_cost(std::vector<double>(18, 1.0), std::vector<int64_t>{8, 8}, 2, 4, 0),
            (std::vector<uint8_t>{2, 2}));
}

}  // namespace
}  // namespace nibble
