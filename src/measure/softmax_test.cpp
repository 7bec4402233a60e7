#include "measure/softmax.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/random.h"
#include "measure/softmax_loops.h"

namespace nibble {
namespace {

std::vector<float> random_logits(size_t count, uint64_t seed, float spread) {
  Random random(seed);
  std::vector<float> out(count);
  for (float& x : out) x = spread * random.normal();
  return out;
}

long double log_sum_of(const std::vector<float>& logits) {
  long double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<long double>(x));
  return std::log(sum);
}

long double kl_of(const std::vector<float>& a, const std::vector<float>& b) {
  const long double p = log_sum_of(a), q = log_sum_of(b);
  long double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::exp(a[i] - p) * ((a[i] - p) - (b[i] - q));
  return sum;
}

TEST(NegativeLogLikelihood, IsMinusTheLogOfTheSoftmax) {
  const std::vector<float> logits = {0, std::log(3.0f), 0, 0};  // probabilities 1/6, 3/6, 1/6, 1/6
  EXPECT_NEAR(negative_log_likelihood(logits, 0), std::log(6.0), 1e-7);
  EXPECT_NEAR(negative_log_likelihood(logits, 1), std::log(2.0), 1e-7);
  const std::vector<float> large = {5000, 4990, -5000};
  EXPECT_NEAR(negative_log_likelihood(large, 0), std::log1p(std::exp(-10.0)), 1e-15);
  EXPECT_NEAR(negative_log_likelihood(large, 2), 10000, 1e-3);
}

// All lengths around the lanes, spreads from almost flat to one token having all the probability.
TEST(Softmax, AgreesWithLongDouble) {
  for (size_t count : {1u, 2u, 7u, 8u, 9u, 15u, 16u, 61u, 4096u, 32003u})
    for (float spread : {0.001f, 1.0f, 10.0f, 200.0f}) {
      const auto a = random_logits(count, count, spread), b = random_logits(count, count + 1, spread);
      const Softmax p = softmax_of(a), q = softmax_of(b);
      const auto exact = static_cast<double>(log_sum_of(a));
      EXPECT_NEAR(p.greatest + p.log_sum, exact, 1e-14 + 1e-15 * std::fabs(exact)) << count << " " << spread;
      const auto kl = static_cast<double>(kl_of(a, b));
      EXPECT_NEAR(kl_divergence(a, p, b, q), kl, 1e-14 + 1e-14 * kl) << count << " " << spread;
    }
}

TEST(Softmax, OfEqualRowsDivergesByNothing) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const auto row = random_logits(1000 + seed, seed, 5);
    const Softmax p = softmax_of(row);
    EXPECT_EQ(kl_divergence(row, p, row, p), 0);
  }
}

// Rows that differ by rounding only, and by a constant: the divergence is tiny, and must not come out below 0.
TEST(Softmax, IsNeverNegative) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const auto row = random_logits(1000, seed, 5);
    std::vector<float> other = row;
    for (float& x : other) x = std::nextafter(x, 100.0f) + 3;
    const double kl = kl_divergence(row, softmax_of(row), other, softmax_of(other));
    EXPECT_GE(kl, 0);
    EXPECT_NEAR(kl, static_cast<double>(kl_of(row, other)), 2e-15);
  }
}

// Where a float's step is more than 1000, the lanes behind the end of a row must still count for nothing.
TEST(Softmax, OfHugeLogitsHasNoTokensBehindTheEnd) {
  for (float greatest : {3e10f, -3e10f, 3e38f, -3e38f})
    for (size_t count = 1; count < 20; ++count) {
      const std::vector<float> row(count, greatest), other(count, 0.0f);
      const Softmax p = softmax_of(row), q = softmax_of(other);
      EXPECT_NEAR(p.log_sum, std::log(static_cast<double>(count)), 1e-15) << greatest << " " << count;
      EXPECT_NEAR(kl_divergence(row, p, other, q), 0, 1e-15) << greatest << " " << count;
    }
}

TEST(Softmax, KeepsNotANumber) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (size_t at : {0u, 5u, 8u, 10u}) {
    const auto row = random_logits(11, 1, 3);
    std::vector<float> broken = row;
    broken[at] = nan;
    EXPECT_TRUE(std::isnan(softmax_of(broken).log_sum)) << at;
    EXPECT_TRUE(std::isnan(kl_divergence(row, softmax_of(row), broken, softmax_of(broken)))) << at;
    EXPECT_TRUE(std::isnan(kl_divergence(broken, softmax_of(broken), row, softmax_of(row)))) << at;
  }
}

// Every set of loops that this machine can run, not only the one that it would choose.
TEST(SoftmaxLoops, GiveTheSameBits) {
  const SoftmaxLoops& portable = softmax_loops().front();
  ASSERT_EQ(portable.isa, Isa::portable);
  ASSERT_EQ(softmax_loops().back().isa, std::min(detected_isa(), Isa::avx512vnni));
  for (const SoftmaxLoops& loops : softmax_loops())
    for (size_t count = 1; count < 200; count += count < 70 ? 1 : 13)
      for (float spread : {0.001f, 3.0f, 200.0f, 1e30f}) {
        const auto a = random_logits(count, count, spread), b = random_logits(count, count + 1, spread);
        const float p = loops.greatest(a.data(), count), q = loops.greatest(b.data(), count);
        ASSERT_EQ(p, *std::max_element(a.begin(), a.end())) << to_string(loops.isa) << " " << count;
        ASSERT_EQ(q, portable.greatest(b.data(), count));
        ASSERT_EQ(loops.exponential_sum(a.data(), count, p), portable.exponential_sum(a.data(), count, p))
            << to_string(loops.isa) << " " << count << " " << spread;
        ASSERT_EQ(loops.mean_difference(a.data(), b.data(), count, p, q),
                  portable.mean_difference(a.data(), b.data(), count, p, q))
            << to_string(loops.isa) << " " << count << " " << spread;
      }
}

}  // namespace
}  // namespace nibble
