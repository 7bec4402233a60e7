// Exact k-means in one dimension, against all partitions of few values and the plain quadratic recursion on more.
#include "quantize/solve/kmeans.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/half.h"
#include "core/random.h"

namespace nibble {
namespace {

struct Points {
  std::vector<float> x, w;
};

// Values with repetitions and, where `zeros`, weights of zero; weights over six orders of magnitude.
Points random_points(Random& random, size_t count, bool zeros) {
  Points out;
  for (size_t i = 0; i < count; ++i) {
    const bool again = i > 0 && random.uniform() < 0.2f;
    out.x.push_back(again ? out.x[i / 2] : random.normal());
    out.w.push_back(zeros && random.uniform() < 0.3f ? 0.0f : std::pow(10.0f, 6 * random.uniform() - 3));
  }
  return out;
}

// Points of positive weight in ascending order.
std::vector<std::pair<long double, long double>> sorted(const Points& points) {
  std::vector<std::pair<long double, long double>> out;
  for (size_t i = 0; i < points.x.size(); ++i)
    if (points.w[i] > 0) out.emplace_back(points.x[i], points.w[i]);
  std::sort(out.begin(), out.end());
  return out;
}

// Cost and mean of a run of sorted points.
std::pair<long double, long double> run_of(const std::vector<std::pair<long double, long double>>& points, size_t begin,
                                           size_t end) {
  long double mass = 0, moment = 0, cost = 0;
  for (size_t i = begin; i < end; ++i) {
    mass += points[i].second;
    moment += points[i].second * points[i].first;
  }
  const long double mean = mass > 0 ? moment / mass : 0;
  for (size_t i = begin; i < end; ++i) cost += points[i].second * (points[i].first - mean) * (points[i].first - mean);
  return {cost, mean};
}

// Every way to cut the sorted points into `count` runs (some may be empty).
long double least_of_partitions(const std::vector<std::pair<long double, long double>>& points, size_t begin,
                                int count) {
  if (count == 1) return run_of(points, begin, points.size()).first;
  long double least = std::numeric_limits<long double>::infinity();
  for (size_t end = begin; end <= points.size(); ++end)
    least = std::min(least, run_of(points, begin, end).first + least_of_partitions(points, end, count - 1));
  return least;
}

std::vector<long double> quadratic(const std::vector<std::pair<long double, long double>>& points, int most) {
  const size_t n = points.size();
  std::vector<std::vector<long double>> run(n + 1, std::vector<long double>(n + 1));
  for (size_t i = 0; i <= n; ++i)
    for (size_t j = i; j <= n; ++j) run[i][j] = run_of(points, i, j).first;
  std::vector<long double> least = run[0], costs = {run[0][n]};
  for (int m = 2; m <= most; ++m) {
    std::vector<long double> next(n + 1, std::numeric_limits<long double>::infinity());
    for (size_t i = 0; i <= n; ++i)
      for (size_t j = 0; j <= i; ++j) next[i] = std::min(next[i], least[j] + run[j][i]);
    least = next;
    costs.push_back(least[n]);
  }
  return costs;
}

// What rounding to the nearest of the levels costs.
double cost_of(const Points& points, std::span<const float> levels) {
  double cost = 0;
  for (size_t i = 0; i < points.x.size(); ++i) {
    double least = std::numeric_limits<double>::infinity();
    for (const float level : levels) least = std::min(least, std::pow(static_cast<double>(points.x[i] - level), 2));
    cost += static_cast<double>(points.w[i]) * least;
  }
  return cost;
}

TEST(KMeans, IsAsGoodAsTheBestPartition) {
  Random random(5);
  KMeans kmeans;
  for (int trial = 0; trial < 60; ++trial) {
    const Points points = random_points(random, 1 + static_cast<size_t>(trial) % 11, trial % 2 == 0);
    if (sorted(points).empty()) continue;
    kmeans.solve(points.x, points.w, 4);
    const auto whole = static_cast<double>(run_of(sorted(points), 0, sorted(points).size()).first);
    for (int count = 1; count <= 4; ++count)
      EXPECT_NEAR(kmeans.cost(count), static_cast<double>(least_of_partitions(sorted(points), 0, count)),
                  1e-11 * whole + 1e-30)
          << "trial " << trial << ", " << count << " levels";
  }
}

TEST(KMeans, IsAsGoodAsTheQuadraticRecursion) {
  Random random(6);
  KMeans kmeans;
  for (const bool zeros : {false, true}) {
    const Points points = random_points(random, 160, zeros);
    kmeans.solve(points.x, points.w, 16);
    const std::vector<long double> oracle = quadratic(sorted(points), 16);
    for (int count = 1; count <= 16; ++count) {
      EXPECT_NEAR(kmeans.cost(count) / static_cast<double>(oracle[static_cast<size_t>(count) - 1]), 1, 1e-9) << count;
      // Its levels reach that cost but for their rounding to float32.
      std::vector<float> levels(static_cast<size_t>(count));
      kmeans.levels(count, levels);
      EXPECT_TRUE(std::is_sorted(levels.begin(), levels.end()));
      const double rounding = std::accumulate(points.w.begin(), points.w.end(), 0.0) * std::pow(4e-7, 2);
      EXPECT_LE(cost_of(points, levels), kmeans.cost(count) * (1 + 1e-6) + rounding) << count;
      EXPECT_GE(cost_of(points, levels), kmeans.cost(count) * (1 - 1e-6) - 1e-3) << count;
    }
  }
}

// Thousands of values sort by digits, and no order of them changes anything.
TEST(KMeans, TheOrderOfValuesDoesNotMatter) {
  Random random(7);
  std::vector<float> x(3000), w(x.size(), 1.0f);
  for (float& value : x) value = bf16_to_f32(f32_to_bf16(random.normal()));
  KMeans kmeans;
  kmeans.solve(x, {}, 8);
  std::vector<float> levels(8), again(8);
  kmeans.levels(8, levels);
  const double cost = kmeans.cost(8);
  EXPECT_NEAR(cost_of({x, w}, levels) / cost, 1, 1e-3);
  EXPECT_NEAR(cost / 3000, 0.0345, 0.004);  // of a normal distribution, Max (1960)
  std::reverse(x.begin(), x.end());
  kmeans.solve(x, w, 8);
  kmeans.levels(8, again);
  EXPECT_EQ(levels, again);
  EXPECT_EQ(cost, kmeans.cost(8));
}

TEST(KMeans, FewValuesManyLevels) {
  KMeans kmeans;
  std::vector<float> levels(4);
  const std::vector<float> x = {2, -1, 2, 0.5f}, zeros(4), none;
  kmeans.solve(x, {}, 4);
  kmeans.levels(4, levels);
  EXPECT_EQ(levels, (std::vector<float>{-1, 0.5f, 2, 2}));
  EXPECT_EQ(kmeans.cost(4), 0);
  EXPECT_EQ(kmeans.cost(3), 0);
  EXPECT_GT(kmeans.cost(2), 0);
  kmeans.solve(x, zeros, 1);  // all weights zero: as if equal
  kmeans.levels(1, std::span(levels).first(1));
  EXPECT_EQ(levels[0], 0.875f);
  kmeans.solve(none, {}, 4);
  kmeans.levels(4, levels);
  EXPECT_EQ(levels, zeros);
  EXPECT_EQ(kmeans.cost(4), 0);
  const std::vector<float> only_two = {0, 0, 1, 0};
  kmeans.solve(x, only_two, 2);
  kmeans.levels(2, std::span(levels).first(2));
  EXPECT_EQ(levels[0], 2);
  EXPECT_EQ(levels[1], 2);
}

}  // namespace
}  // namespace nibble
