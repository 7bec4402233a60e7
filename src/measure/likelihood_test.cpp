#include "measure/likelihood.h"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/random_source.h"

namespace nibble {
namespace {

std::vector<int32_t> random_ids(int64_t count, uint64_t vocabulary) {
  Random random(9);
  std::vector<int32_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<int32_t>(random.below(vocabulary)));
  return out;
}

TEST(NegativeLogLikelihood, IsMinusTheLogOfTheSoftmax) {
  const std::vector<float> logits = {0, std::log(3.0f), 0, 0};  // probabilities 1/6, 3/6, 1/6, 1/6
  EXPECT_NEAR(negative_log_likelihood(logits, 0), std::log(6.0), 1e-7);
  EXPECT_NEAR(negative_log_likelihood(logits, 1), std::log(2.0), 1e-7);
  const std::vector<float> large = {5000, 4990, -5000};
  EXPECT_NEAR(negative_log_likelihood(large, 0), std::log1p(std::exp(-10.0)), 1e-15);
  EXPECT_NEAR(negative_log_likelihood(large, 2), 10000, 1e-3);
}

// Against one window at a time, and a softmax written out in long double.
TEST(ScoreWindows, IsTheMeanOverAllPredictedTokens) {
  ThreadPool pool(2);
  const RandomSource source(small_spec());
  const Model model = *Model::load(source, {}, pool);
  const int64_t window = 13, windows = 90, width = model.spec().vocabulary;  // more than one batch
  const std::vector<int32_t> ids = random_ids(window * windows + 5, static_cast<uint64_t>(width));
  long double sum = 0, squares = 0;
  Workspace workspace;
  for (int64_t w = 0; w < windows; ++w) {
    const std::vector<int32_t> tokens(ids.begin() + w * window, ids.begin() + (w + 1) * window);
    Sequence sequence = model.new_sequence();
    Segment segment{&sequence, window, 0};
    std::vector<int64_t> wanted;
    for (int64_t i = 0; i + 1 < window; ++i) wanted.push_back(i);
    std::vector<float> logits(wanted.size() * static_cast<size_t>(width));
    ASSERT_TRUE(model.forward(tokens, {&segment, 1}, wanted, logits.data(), workspace, pool));
    for (size_t i = 0; i < wanted.size(); ++i) {
      long double total = 0;
      for (int64_t n = 0; n < width; ++n)
        total += std::exp(static_cast<long double>(logits[i * static_cast<size_t>(width) + static_cast<size_t>(n)]));
      const long double loss =
          std::log(total) - logits[i * static_cast<size_t>(width) + static_cast<size_t>(tokens[i + 1])];
      sum += loss;
      squares += loss * loss;
    }
  }
  const long double n = windows * (window - 1), mean = sum / n;
  const Likelihood score = *score_windows(model, ids, window, pool);
  EXPECT_EQ(score.windows, windows);
  EXPECT_EQ(score.tokens, windows * (window - 1));
  EXPECT_NEAR(score.nll, static_cast<double>(mean), 1e-9);
  EXPECT_NEAR(score.standard_error, static_cast<double>(std::sqrt((squares / n - mean * mean) / (n - 1))), 1e-9);
  EXPECT_DOUBLE_EQ(score.perplexity(), std::exp(score.nll));
}

TEST(ScoreWindows, DoesNotDependOnThreads) {
  const RandomSource source(small_spec());
  ThreadPool one(1), four(4);
  const Model model = *Model::load(source, {}, one);
  const std::vector<int32_t> ids = random_ids(400, 61);
  const Likelihood a = *score_windows(model, ids, 32, one), b = *score_windows(model, ids, 32, four);
  EXPECT_EQ(a.nll, b.nll);
  EXPECT_EQ(a.standard_error, b.standard_error);
}

TEST(ScoreWindows, TellsProgress) {
  ThreadPool pool(1);
  const Model model = *Model::load(RandomSource(small_spec()), {}, pool);
  std::vector<double> done;
  ASSERT_TRUE(
      score_windows(model, random_ids(96 * 25, 61), 96, pool, [&](const Progress& p) { done.push_back(p.done); }));
  ASSERT_GE(done.size(), 2u);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_DOUBLE_EQ(done.back(), 1);
}

TEST(ScoreWindows, RefusesWindowsThatCannotBeScored) {
  ThreadPool pool(1);
  const Model model = *Model::load(RandomSource(small_spec()), {}, pool);
  const std::vector<int32_t> ids = random_ids(50, 61);
  for (int64_t window : {0, 1, 51, 97}) {
    const auto score = score_windows(model, ids, window, pool);
    ASSERT_FALSE(score) << window;
    EXPECT_EQ(score.error().code, ErrorCode::usage);
    EXPECT_NE(score.error().message.find(std::to_string(window)), std::string::npos);
  }
  EXPECT_TRUE(score_windows(model, ids, 50, pool));
}

}  // namespace
}  // namespace nibble
