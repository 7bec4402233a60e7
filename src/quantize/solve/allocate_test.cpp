#include "quantize/solve/allocate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/random.h"

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

}  // namespace
}  // namespace nibble
