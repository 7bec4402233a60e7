#include "eval/verify/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/testing.h"
#include "eval/tasks/testing.h"

namespace nibble {
namespace {

using Ids = std::vector<int32_t>;
using Table = std::function<float(int32_t last, int32_t next)>;

class Sample : public ::testing::Test {
 protected:
  Result<SampledText> sample(const Table& table, const Ids& start, const Ids& ends, const SamplingPlan& plan,
                             int threads = 1, int64_t positions = 512) {
    ThreadPool pool(threads);
    NIBBLE_TRY(const Model model, Model::load(testing::BigramSource(table, positions), {}, pool));
    told_.clear();
    return sample_text(model, start, ends, plan, pool, [&](double done) { told_.push_back(done); });
  }
  std::vector<double> told_;
};

float uneven(int32_t last, int32_t next) { return static_cast<float>(2 * std::sin(last * 7.0 + next * 1.3)); }
float counting(int32_t last, int32_t next) { return next == (last + 1) % testing::kByteVocabulary ? 200.0f : 0.0f; }

TEST_F(Sample, IsTheSameWithAnyNumberOfThreads) {
  const auto one = sample(uneven, {3, 4}, {}, {5, 40, 7}), four = sample(uneven, {3, 4}, {}, {5, 40, 7}, 4);
  ASSERT_TRUE(one && four);
  ASSERT_EQ(one->runs.size(), 5u);
  ASSERT_EQ(four->runs.size(), 5u);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(one->runs[i].ids, four->runs[i].ids);
  EXPECT_EQ(one->mean_entropy, four->mean_entropy);
  EXPECT_EQ(one->drawn, 200);
  EXPECT_EQ(one->drawn_tokens().size(), 200u);
}

TEST_F(Sample, SeedsCountOn) {
  const auto two = sample(uneven, {3}, {}, {2, 40, 7}), second = sample(uneven, {3}, {}, {1, 40, 8});
  ASSERT_TRUE(two && second);
  EXPECT_NE(two->runs[0].ids, two->runs[1].ids);
  EXPECT_EQ(two->runs[1].ids, second->runs[0].ids);
}

TEST_F(Sample, BeginsAnewAfterAnEndToken) {
  const auto found = sample(counting, {9, 10}, {13, 99}, {2, 7, 1});
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->drawn, 14);
  ASSERT_EQ(found->runs.size(), 6u);
  const Ids expected[] = {{9, 10, 11, 12, 13}, {9, 10, 11, 12, 13}, {9, 10, 11}};
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(found->runs[i].ids, expected[i % 3]) << i;
    EXPECT_EQ(found->runs[i].start, 2);
  }
  EXPECT_EQ(found->drawn_tokens(), (Ids{11, 12, 13, 11, 12, 13, 11, 11, 12, 13, 11, 12, 13, 11}));
  EXPECT_NEAR(found->mean_entropy, 0, 1e-12);
}

// An end token as the last one leaves no empty run behind.
TEST_F(Sample, EndsWithAnEndToken) {
  const auto found = sample(counting, {10}, {13}, {1, 3, 1});
  ASSERT_TRUE(found);
  ASSERT_EQ(found->runs.size(), 1u);
  EXPECT_EQ(found->runs[0].ids, (Ids{10, 11, 12, 13}));
}

TEST_F(Sample, DrawsNoMoreThanThePositionsHold) {
  const auto found = sample(counting, {1, 2, 3}, {}, {1, 64, 1}, 1, 8);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->runs.at(0).ids, (Ids{1, 2, 3, 4, 5, 6, 7, 8}));
  ASSERT_EQ(told_.size(), 5u);
  EXPECT_EQ(told_.front(), 0.2);
  EXPECT_EQ(told_.back(), 1);
}

TEST_F(Sample, RefusesABeginningThatLeavesNoRoom) {
  testing::expect_error(sample(counting, {}, {}, {}), ErrorCode::usage, "0 tokens");
  testing::expect_error(sample(counting, {1, 2, 3, 4}, {}, {}, 1, 4), ErrorCode::usage, "4 tokens", "4 positions");
  EXPECT_TRUE(sample(counting, {1, 2, 3}, {}, {}, 1, 4));
}

// Three quarters of the draws: of 3200, within four standard deviations (0.0077 each).
TEST_F(Sample, DrawsAtTheModelsOwnProbabilities) {
  const auto found =
      sample([](int32_t, int32_t next) { return next == 200  ? std::log(3.0f)
                                                : next == 20 ? 0.0f
                                                             : -200.0f; }, {20}, {},
             {8, 400, 1});
  ASSERT_TRUE(found);
  const Ids ids = found->drawn_tokens();
  ASSERT_EQ(ids.size(), 3200u);
  const auto often = std::count(ids.begin(), ids.end(), 200);
  EXPECT_EQ(often + std::count(ids.begin(), ids.end(), 20), 3200);
  EXPECT_NEAR(static_cast<double>(often) / 3200, 0.75, 0.031);
  EXPECT_NEAR(found->mean_entropy, 0.75 * std::log(4.0 / 3) + 0.25 * std::log(4.0), 1e-6);
}

TEST_F(Sample, EntropyOfNoise) {
  const auto found = sample([](int32_t, int32_t) { return 1.5f; }, {20}, {}, {2, 10, 1});
  ASSERT_TRUE(found);
  EXPECT_NEAR(found->mean_entropy, std::log(257.0), 1e-9);
}

}  // namespace
}  // namespace nibble
