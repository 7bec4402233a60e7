#include "quantize/solve/cholesky.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"

namespace nibble {
namespace {

// x'x of random x: positive definite when there are more rows than columns.
AlignedBuffer<double> random_gram(int64_t n, Random& random) {
  std::vector<double> x(static_cast<size_t>((n + 8) * n));
  for (double& value : x) value = static_cast<double>(random.normal());
  AlignedBuffer<double> gram(n * n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t m = 0; m < n + 8; ++m)
        gram[i * n + j] += x[static_cast<size_t>(m * n + i)] * x[static_cast<size_t>(m * n + j)];
  return gram;
}

Triangle triangle_of(const AlignedBuffer<double>& square, int64_t n) {
  Triangle out(n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i; j < n; ++j) out.row(i)[j] = square[i * n + j];
  return out;
}

TEST(Cholesky, FactorOfTheInverseTimesTheMatrixIsTheIdentity) {
  Random random(2);
  ThreadPool pool(2);
  for (int64_t n : {1, 2, 5, 63, 130, 191, 192, 193, 400}) {
    const AlignedBuffer<double> gram = random_gram(n, random);
    Triangle u = triangle_of(gram, n);
    ASSERT_TRUE(upper_factor_of_inverse(u, pool));
    double worst = 0;
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_GT(u.row(i)[i], 0);
      std::vector<double> row(static_cast<size_t>(n));  // row i of U'U
      for (int64_t k = 0; k <= i; ++k)
        for (int64_t j = k; j < n; ++j) row[static_cast<size_t>(j)] += u.row(k)[i] * u.row(k)[j];
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < n; ++k) sum += row[static_cast<size_t>(k)] * gram[k * n + j];
        worst = std::max(worst, std::fabs(sum - (i == j)));
      }
    }
    EXPECT_LT(worst, 1e-6) << n;
  }
}

TEST(Cholesky, DoesNotDependOnThreads) {
  Random random(3);
  const AlignedBuffer<double> gram = random_gram(450, random);
  ThreadPool one(1);
  Triangle expected = triangle_of(gram, 450);
  ASSERT_TRUE(upper_factor_of_inverse(expected, one));
  for (int threads : {2, 4}) {
    ThreadPool pool(threads);
    Triangle found = triangle_of(gram, 450);
    ASSERT_TRUE(upper_factor_of_inverse(found, pool));
    const auto a = found.values().span(), b = expected.values().span();
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << threads;
  }
}

TEST(Cholesky, RefusesWhatIsNotPositiveDefinite) {
  ThreadPool pool(1);
  Triangle zero(3), infinite(2);
  EXPECT_FALSE(upper_factor_of_inverse(zero, pool));
  infinite.row(0)[0] = infinite.row(1)[1] = INFINITY;
  EXPECT_FALSE(upper_factor_of_inverse(infinite, pool));
}

}  // namespace
}  // namespace nibble
