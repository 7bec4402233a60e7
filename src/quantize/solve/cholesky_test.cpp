#include "quantize/solve/cholesky.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"
#include "quantize/solve/product.h"

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

AlignedBuffer<double> copy(const AlignedBuffer<double>& from) {
  AlignedBuffer<double> to(from.size());
  std::memcpy(to.data(), from.data(), sizeof(double) * static_cast<size_t>(from.size()));
  return to;
}

TEST(Product, MatchesTheTripleLoopBitForBit) {
  Random random(1);
  for (int64_t rows : {1, 3, 4, 7, 16})
    for (int64_t columns : {1, 2, 3, 4, 5, 8, 13, 33})
      for (int64_t depth : {0, 1, 5, 40}) {
        std::vector<double> a(static_cast<size_t>(rows * depth)), b(static_cast<size_t>(depth * columns)),
            c(static_cast<size_t>(rows * columns));
        for (auto* m : {&a, &b, &c})
          for (double& value : *m) value = static_cast<double>(random.normal());
        std::vector<double> expected = c;
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < columns; ++j)
            for (int64_t k = 0; k < depth; ++k)
              expected[static_cast<size_t>(i * columns + j)] -=
                  a[static_cast<size_t>(i * depth + k)] * b[static_cast<size_t>(k * columns + j)];
        add_product<double>({c.data(), columns, 1}, {a.data(), depth, 1}, {b.data(), columns, 1}, rows, columns, depth,
                            -1);
        ASSERT_EQ(c, expected) << rows << "x" << columns << "x" << depth;
      }
}

TEST(Cholesky, FactorOfTheInverseTimesTheMatrixIsTheIdentity) {
  Random random(2);
  ThreadPool pool(2);
  for (int64_t n : {1, 2, 5, 63, 64, 65, 130, 200}) {
    const AlignedBuffer<double> gram = random_gram(n, random);
    const AlignedBuffer<double> u = upper_factor_of_inverse(copy(gram), n, pool);
    ASSERT_EQ(u.size(), n * n);
    double worst = 0;
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_GT(u[i * n + i], 0);
      std::vector<double> row(static_cast<size_t>(n));  // row i of U'U
      for (int64_t k = 0; k <= i; ++k)
        for (int64_t j = k; j < n; ++j) row[static_cast<size_t>(j)] += u[k * n + i] * u[k * n + j];
      for (int64_t j = 0; j < i; ++j) ASSERT_EQ(u[i * n + j], 0);
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
  const AlignedBuffer<double> gram = random_gram(150, random);
  ThreadPool one(1);
  const auto expected = upper_factor_of_inverse(copy(gram), 150, one);
  for (int threads : {2, 4}) {
    ThreadPool pool(threads);
    const auto found = upper_factor_of_inverse(copy(gram), 150, pool);
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), sizeof(double) * 150 * 150), 0) << threads;
  }
}

TEST(Cholesky, RefusesWhatIsNotPositiveDefinite) {
  ThreadPool pool(1);
  AlignedBuffer<double> zero(9), infinite(4);
  EXPECT_EQ(upper_factor_of_inverse(std::move(zero), 3, pool).size(), 0);
  infinite[0] = infinite[3] = INFINITY;
  EXPECT_EQ(upper_factor_of_inverse(std::move(infinite), 2, pool).size(), 0);
}

}  // namespace
}  // namespace nibble
