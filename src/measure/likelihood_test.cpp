#include "measure/likelihood.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/testing.h"
#include "measure/testing.h"
#include "runtime/random_source.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::GivenLogits;
using testing::random_ids;

// Three tokens with probabilities 1/2, 1/4 and 1/4.
TEST(Score, MatchesHandComputedValues) {
  ThreadPool pool(1);
  const float half = std::log(2.0f);
  GivenLogits logits(testing::predicting({0, 1, 2}), 3, {half, 0, 0, 0, 0, half, 0, 0, half});
  const Likelihood found = *score(logits, pool);
  const double ln2 = std::log(2.0), a = ln2, b = 2 * ln2, c = ln2, mean = (a + b + c) / 3;
  EXPECT_EQ(found.tokens, 3);
  EXPECT_EQ(found.windows, 1);
  EXPECT_EQ(found.tokens_run, 4);
  EXPECT_NEAR(found.nll, mean, 1e-7);
  EXPECT_NEAR(found.perplexity(), std::exp2(4.0 / 3), 1e-6);
  // llama.cpp's formula: sqrt((mean of squares - square of mean) / (n - 1)).
  EXPECT_NEAR(found.standard_error, std::sqrt(((a * a + b * b + c * c) / 3 - mean * mean) / 2), 1e-7);
}

// -log p of every predicted token, one passage at a time, in long double.
std::vector<long double> losses_of(const Model& model, const ScoredText& text, ThreadPool& pool) {
  const int64_t width = model.spec().vocabulary;
  std::vector<long double> out;
  Workspace workspace;
  for (const Passage& passage : text.passages) {
    const std::span<const int32_t> tokens(text.ids.data() + passage.begin, static_cast<size_t>(passage.count));
    Sequence sequence = model.new_sequence();
    Segment segment{&sequence, passage.count, 0};
    std::vector<int64_t> wanted;
    for (int64_t i = 0; i < passage.count; ++i) wanted.push_back(i);
    std::vector<float> logits(static_cast<size_t>(passage.count * width));
    EXPECT_TRUE(model.forward(tokens, {&segment, 1}, wanted, logits.data(), workspace, pool));
    for (int64_t t = passage.first; t < passage.count; ++t) {
      const float* row = logits.data() + (t - 1) * width;
      long double total = 0;
      for (int64_t n = 0; n < width; ++n) total += std::exp(static_cast<long double>(row[n]));
      out.push_back(std::log(total) - row[tokens[static_cast<size_t>(t)]]);
    }
  }
  return out;
}

TEST(Score, IsTheMeanOverAllPredictedTokens) {
  ThreadPool pool(2);
  const Model model = *Model::load(RandomSource(small_spec()), {}, pool);
  const std::vector<int32_t> ids = random_ids(1200, 61);  // more than one batch
  for (const ProtocolOptions& options : {ProtocolOptions{Protocol::windows, 13},
                                         {Protocol::strided, 40, 17},
                                         {Protocol::second_half, 24, 0, 5},
                                         {Protocol::second_half, 33}}) {
    const ScoredText text = *scored_text(ids, options, 96);
    const auto losses = losses_of(model, text, pool);
    const auto n = static_cast<long double>(losses.size());
    long double sum = 0, squares = 0;
    for (long double loss : losses) {
      sum += loss;
      squares += loss * loss;
    }
    const long double mean = sum / n;
    const Likelihood found = *score(model, text, pool);
    EXPECT_EQ(found.tokens, static_cast<int64_t>(losses.size()));
    EXPECT_EQ(found.windows, static_cast<int64_t>(text.passages.size()));
    EXPECT_NEAR(found.nll, static_cast<double>(mean), 1e-12);
    EXPECT_NEAR(found.standard_error, static_cast<double>(std::sqrt((squares / n - mean * mean) / (n - 1))), 1e-12);
  }
}

TEST(Score, DoesNotDependOnThreads) {
  ThreadPool one(1), four(4);
  const Model model = *Model::load(RandomSource(small_spec()), {}, one);
  const ScoredText text = *scored_text(random_ids(400, 61), {Protocol::windows, 32}, 96);
  const Likelihood a = *score(model, text, one), b = *score(model, text, four);
  EXPECT_EQ(a.nll, b.nll);
  EXPECT_EQ(a.standard_error, b.standard_error);
}

TEST(Score, TellsProgress) {
  ThreadPool pool(1);
  const Model model = *Model::load(RandomSource(small_spec()), {}, pool);
  std::vector<double> done;
  const ScoredText text = *scored_text(random_ids(96 * 25, 61), {Protocol::windows, 96}, 96);
  ASSERT_TRUE(score(model, text, pool, [&](const Progress& p) { done.push_back(p.done); }));
  ASSERT_GE(done.size(), 2u);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_DOUBLE_EQ(done.back(), 1);
}

TEST(Score, RefusesIdsOutsideTheVocabulary) {
  ThreadPool pool(1);
  const Model model = *Model::load(RandomSource(small_spec()), {}, pool);
  expect_error(score(model, testing::predicting({3, 61, 4}), pool), ErrorCode::usage, "61");
}

}  // namespace
}  // namespace nibble
