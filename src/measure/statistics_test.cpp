#include "measure/statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"

namespace nibble {
namespace {

TEST(EstimateMean, MatchesHandComputedValues) {
  const std::vector<double> values = {1, 2, 6};  // variance (4 + 1 + 9) / 2 = 7
  EXPECT_DOUBLE_EQ(estimate_mean(values).value, 3);
  EXPECT_DOUBLE_EQ(estimate_mean(values).standard_error, std::sqrt(7.0 / 3));
  EXPECT_EQ(estimate_mean(std::vector<double>{5}).standard_error, 0);
  EXPECT_EQ(estimate_mean({}).value, 0);
}

TEST(EstimateQuantile, LiesBetweenNeighbours) {
  const std::vector<double> values = {0, 10, 20, 40};
  EXPECT_DOUBLE_EQ(estimate_quantile(values, 0.5).value, 15);
  EXPECT_DOUBLE_EQ(estimate_quantile(values, 0.99).value, 20 + 0.97 * 20);
  // Ranks 1.5 -+ sqrt(4 / 4) are 0.5 and 2.5.
  EXPECT_DOUBLE_EQ(estimate_quantile(values, 0.5).standard_error, (30.0 - 5.0) / 2);
  EXPECT_EQ(estimate_quantile(std::vector<double>{7}, 0.99).value, 7);
  EXPECT_EQ(estimate_quantile(std::vector<double>{7}, 0.99).standard_error, 0);
}

// The error is what repeated samples show: 400 samples of 2000 exponential numbers, whose quantile has the standard
// deviation sqrt(q / (1 - q) / n).
TEST(EstimateQuantile, TellsTheSpreadOfRepeatedSamples) {
  Random random(3);
  for (double q : {0.5, 0.99}) {
    double errors = 0, sum = 0, squares = 0;
    const int samples = 400, size = 2000;
    for (int s = 0; s < samples; ++s) {
      std::vector<double> values(size);
      for (double& x : values) x = -std::log(1 - static_cast<double>(random.uniform()));
      std::sort(values.begin(), values.end());
      const Estimate found = estimate_quantile(values, q);
      errors += found.standard_error;
      sum += found.value;
      squares += found.value * found.value;
    }
    const double spread = std::sqrt(squares / samples - sum / samples * sum / samples);
    EXPECT_NEAR(sum / samples, -std::log(1 - q), 0.06);
    EXPECT_NEAR(spread / std::sqrt(q / (1 - q) / size), 1, 0.15) << q;
    EXPECT_NEAR(errors / samples / spread, 1, 0.15) << q;
  }
}

TEST(MedianOf, IsTheMiddleInAnyOrder) {
  EXPECT_EQ(median_of({}), 0);
  EXPECT_EQ(median_of({7}), 7);
  EXPECT_EQ(median_of({4, 1}), 2.5);
  EXPECT_EQ(median_of({9, 1, 4}), 4);
  EXPECT_EQ(median_of({40, 0, 20, 10}), 15);
  EXPECT_EQ(median_of({1, HUGE_VAL, 2}), 2);
  Random random(1);
  for (size_t count = 1; count < 40; ++count) {
    std::vector<double> values(count);
    for (double& x : values) x = random.normal();
    const double found = median_of(values);
    std::sort(values.begin(), values.end());
    EXPECT_DOUBLE_EQ(found, estimate_quantile(values, 0.5).value) << count;
  }
}

}  // namespace
}  // namespace nibble
