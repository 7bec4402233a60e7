#include "core/random.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace nibble {
namespace {

// The first outputs of SplitMix64 for seed 1234567, as published with the reference C code.
TEST(Random, PublishedVector) {
  Random random(1234567);
  for (uint64_t expected :
       {6457827717110365317u, 3203168211198807973u, 9817491932198370423u, 4593380528125082431u, 16408922859458223821u})
    EXPECT_EQ(random.next(), expected);
}

TEST(Random, SeedsGiveDifferentStreams) { EXPECT_NE(Random(1).next(), Random(2).next()); }

TEST(Random, BelowStaysBelowAndReachesEverything) {
  Random random(3);
  std::array<int, 7> counts{};
  for (int i = 0; i < 70'000; ++i) ++counts[random.below(7)];
  // Each count has mean 10000 and standard deviation 93.
  for (int count : counts) EXPECT_NEAR(count, 10'000, 500);
  EXPECT_EQ(random.below(1), 0u);
}

TEST(Random, UniformLiesInTheUnitInterval) {
  Random random(4);
  double sum = 0;
  for (int i = 0; i < 100'000; ++i) {
    const float value = random.uniform();
    ASSERT_GE(value, 0.0f);
    ASSERT_LT(value, 1.0f);
    sum += static_cast<double>(value);
  }
  EXPECT_NEAR(sum / 100'000, 0.5, 0.005);
}

TEST(Random, NormalHasItsMomentsAndTails) {
  Random random(5);
  double sum = 0, squares = 0, fourth = 0;
  int beyond_two = 0;
  constexpr int kCount = 200'000;
  for (int i = 0; i < kCount; ++i) {
    const double value = static_cast<double>(random.normal());
    ASSERT_TRUE(std::isfinite(value));
    sum += value, squares += value * value, fourth += value * value * value * value;
    beyond_two += std::fabs(value) > 2 ? 1 : 0;
  }
  EXPECT_NEAR(sum / kCount, 0.0, 0.012);
  EXPECT_NEAR(squares / kCount, 1.0, 0.016);
  EXPECT_NEAR(fourth / kCount, 3.0, 0.11);
  EXPECT_NEAR(static_cast<double>(beyond_two) / kCount, 0.0455, 0.0025);
}

}  // namespace
}  // namespace nibble
