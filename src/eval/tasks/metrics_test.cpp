#include "eval/tasks/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

using Values = std::vector<double>;

std::vector<AnswerScore> scores_of(const std::vector<std::pair<double, int64_t>>& likelihoods_and_tokens) {
  std::vector<AnswerScore> scores;
  for (const auto& [likelihood, tokens] : likelihoods_and_tokens) scores.push_back({likelihood, tokens, false});
  return scores;
}

// -6 is the greatest sum. Per character: -6/2, -8/4, -12/5: the second. Per byte: -6/2, -8/8, -12/20: the third, whose
// five characters have four bytes each. Per token: -6/1, -8/1, -12/6: the third.
TEST(Metrics, EachLengthPrefersAnotherAnswer) {
  const std::vector<std::string> choices = {"ab", "\u00e9\u00e9\u00e9\u00e9",
                                            "\U0001F600\U0001F600\U0001F600\U0001F600\U0001F600"};
  const auto scores = scores_of({{-6, 1}, {-8, 1}, {-12, 6}});
  EXPECT_EQ(judge(Scoring::choices, {{"q"}, choices, 0, 1}, scores), (Values{1, 0, 0, 0}));
  EXPECT_EQ(judge(Scoring::choices, {{"q"}, choices, 1, 1}, scores), (Values{0, 1, 0, 0}));
  EXPECT_EQ(judge(Scoring::choices, {{"q"}, choices, 2, 1}, scores), (Values{0, 0, 1, 1}));
}

TEST(Metrics, TheFirstOfEqualsCounts) {
  const std::vector<std::string> choices = {"aa", "bb", "cc"};
  const auto scores = scores_of({{-5, 2}, {-4, 2}, {-4, 2}});
  EXPECT_EQ(judge(Scoring::choices, {{"q"}, choices, 1, 1}, scores), (Values{1, 1, 1, 1}));
  EXPECT_EQ(judge(Scoring::choices, {{"q"}, choices, 2, 1}, scores), (Values{0, 0, 0, 0}));
  EXPECT_EQ(judge(Scoring::plain, {{"q", "r", "s"}, {"aa"}, 1, 1}, scores), Values{1});
}

TEST(Metrics, AWordIsGreedyOrNot) {
  EXPECT_EQ(judge(Scoring::last_word, {{"q"}, {"a"}, 0, 1}, std::vector<AnswerScore>{{-3, 2, true}}), (Values{1, -3}));
  EXPECT_EQ(judge(Scoring::last_word, {{"q"}, {"a"}, 0, 1}, std::vector<AnswerScore>{{-4, 2, false}}), (Values{0, -4}));
}

// Three of four: mean 3/4, deviation sqrt(4 * 3/16 / 3) = 1/2, over sqrt(4).
TEST(Metrics, MeansAndErrors) {
  ThreadPool pool(1);
  const std::vector<Values> judged = {{1}, {1}, {0}, {1}};
  const auto metrics = metrics_of(Scoring::plain, judged, pool);
  ASSERT_EQ(metrics.size(), 1u);
  EXPECT_EQ(metrics[0].name, "acc");
  EXPECT_DOUBLE_EQ(metrics[0].value, 0.75);
  EXPECT_DOUBLE_EQ(*metrics[0].standard_error, 0.25);
  const auto single = metrics_of(Scoring::plain, std::span(judged).first(1), pool);
  EXPECT_DOUBLE_EQ(single[0].value, 1);
  EXPECT_FALSE(single[0].standard_error);
}

TEST(Metrics, PerplexityIsOfTheMean) {
  ThreadPool pool(2);
  const double nll = std::log(8.0);
  const std::vector<Values> judged = {{1, -nll}, {0, -3 * nll}};
  const auto metrics = metrics_of(Scoring::last_word, judged, pool);
  EXPECT_EQ(metrics[1].name, "perplexity");
  EXPECT_NEAR(metrics[1].value, 64, 1e-9);  // exp(2 log 8)
  // Resampling two items gives 8, 64, 64 or 512 with equal probability: variance 41712 (mean 162).
  EXPECT_NEAR(*metrics[1].standard_error, std::sqrt(((162 - 8.0) * (162 - 8.0) + 2 * 98.0 * 98.0 + 350.0 * 350.0) / 4),
              1.5);
}

// Python: two thousand resamplings with random.Random(0) and Random(1), their statistics.stdev.
TEST(Metrics, BootstrapDrawsAsTheHarnessDoes) {
  ThreadPool pool(2);
  EXPECT_NEAR(bootstrap_error_of_perplexity(Values{-1.0, -2.5, -0.25, -4.0}, 2000, pool), 7.580477634519328, 1e-9);
}

}  // namespace
}  // namespace nibble
