#include "measure/divergence.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/testing.h"
#include "measure/testing.h"
#include "runtime/random_source.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::GivenLogits;
using testing::predicting;
using testing::random_ids;

TEST(TokenDivergence, MatchesHandComputedValues) {
  const float two = std::log(2.0f);
  // p = 1/2 1/4 1/4, q = 1/4 1/2 1/4: KL = 1/2 log 2 - 1/4 log 2.
  const std::vector<float> p = {two, 0, 0}, q = {0, two, 0};
  const TokenDivergence found = token_divergence(p, q, 1);
  EXPECT_NEAR(found.kl, std::log(2.0) / 4, 1e-7);
  EXPECT_NEAR(found.reference_nll, std::log(4.0), 1e-7);
  EXPECT_NEAR(found.candidate_nll, std::log(2.0), 1e-7);
  EXPECT_FALSE(found.same_top1);
  EXPECT_EQ(found.top5_overlap, 1);  // of three tokens
}

TEST(TokenDivergence, CountsSharedTopTokens) {
  const std::vector<float> a = {9, 8, 7, 6, 5, 4, 3, 2};
  EXPECT_EQ(token_divergence(a, std::vector<float>{2, 3, 4, 5, 6, 7, 8, 9}, 0).top5_overlap, 0.4);
  EXPECT_EQ(token_divergence(a, std::vector<float>{1, 2, 7, 6, 5, 4, 3, 2}, 0).top5_overlap, 0.6);
  EXPECT_EQ(token_divergence(a, std::vector<float>{5, 6, 7, 8, 9, 1, 1, 1}, 0).top5_overlap, 1);
}

// Of equal logits the lower ids count as more probable.
TEST(TokenDivergence, BreaksTiesToTheLowerId) {
  const std::vector<float> flat(9, 1), first = {5, 4, 4, 4, 4, 4, 4, 4, 4}, last = {1, 1, 1, 1, 1, 1, 1, 1, 2};
  EXPECT_TRUE(token_divergence(flat, first, 0).same_top1);
  EXPECT_EQ(token_divergence(flat, first, 0).top5_overlap, 1);
  EXPECT_FALSE(token_divergence(flat, last, 0).same_top1);
  EXPECT_EQ(token_divergence(flat, last, 0).top5_overlap, 0.8);
}

// The most probable tokens wherever they lie, in rows longer than any block of a search.
TEST(TokenDivergence, FindsTheTopTokensOfLongRows) {
  Random random(5);
  for (int trial = 0; trial < 200; ++trial) {
    const size_t width = 5 + random.below(700);
    std::vector<float> a(width), b(width);
    for (float& x : a) x = std::round(4 * random.normal());  // with ties
    for (float& x : b) x = std::round(4 * random.normal());
    const auto top = [](const std::vector<float>& row) {
      std::vector<int32_t> ids(row.size());
      for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
      std::stable_sort(ids.begin(), ids.end(),
                       [&](int32_t x, int32_t y) { return row[static_cast<size_t>(x)] > row[static_cast<size_t>(y)]; });
      ids.resize(5);
      return ids;
    };
    const auto x = top(a), y = top(b);
    double shared = 0;
    for (int32_t id : x) shared += std::find(y.begin(), y.end(), id) != y.end();
    const TokenDivergence found = token_divergence(a, b, 0);
    EXPECT_DOUBLE_EQ(found.top5_overlap, shared / 5);
    EXPECT_EQ(found.same_top1, x[0] == y[0]);
  }
}

// Everything, against sums in long double over the same rows.
TEST(CompareLogits, AgreesWithLongDouble) {
  ThreadPool pool(2);
  const int64_t width = 100;
  const ScoredText text = predicting(random_ids(301, width));
  auto reference = testing::random_rows(text, width, 1), candidate = testing::random_rows(text, width, 2);
  for (size_t i = 0; i < candidate.rows().size(); ++i)  // a candidate that is near
    candidate.rows()[i] = reference.rows()[i] + 0.1f * candidate.rows()[i];
  LogitSource* const sources[] = {&candidate};
  const Divergence found = (*compare_logits(reference, sources, pool))[0];
  const auto targets = text.targets();
  std::vector<long double> kl, ratio, change;
  long double p_loss = 0, q_loss = 0;
  for (size_t row = 0; row < targets.size(); ++row) {
    const float *a = reference.rows().data() + row * 100, *b = candidate.rows().data() + row * 100;
    long double p = 0, q = 0, sum = 0;
    for (int i = 0; i < width; ++i) p += std::exp(static_cast<long double>(a[i]));
    for (int i = 0; i < width; ++i) q += std::exp(static_cast<long double>(b[i]));
    p = std::log(p), q = std::log(q);
    for (int i = 0; i < width; ++i) sum += std::exp(a[i] - p) * ((a[i] - p) - (b[i] - q));
    kl.push_back(sum);
    const long double x = p - a[targets[row]], y = q - b[targets[row]];
    p_loss += x, q_loss += y;
    ratio.push_back(y - x);
    change.push_back(std::exp(-y) - std::exp(-x));
  }
  const auto mean = [](const std::vector<long double>& values) {
    long double sum = 0;
    for (long double x : values) sum += x;
    return sum / static_cast<long double>(values.size());
  };
  const auto error = [&](const std::vector<long double>& values) {
    long double sum = 0;
    for (long double x : values) sum += (x - mean(values)) * (x - mean(values));
    const auto n = static_cast<long double>(values.size());
    return static_cast<double>(std::sqrt(sum / (n - 1) / n));
  };
  EXPECT_EQ(found.tokens, 301);
  EXPECT_NEAR(found.mean_kl.value, static_cast<double>(mean(kl)), 1e-13);
  EXPECT_NEAR(found.mean_kl.standard_error, error(kl), 1e-13);
  for (size_t i = 0; i < kl.size(); ++i) EXPECT_NEAR(found.kl[i], static_cast<double>(kl[i]), 1e-7);
  std::sort(kl.begin(), kl.end());  // ranks 150, 297 and 299.7
  EXPECT_NEAR(found.median_kl.value, static_cast<double>(kl[150]), 1e-13);
  EXPECT_NEAR(found.p99_kl.value, static_cast<double>(kl[297]), 1e-13);
  EXPECT_NEAR(found.p999_kl.value, static_cast<double>(kl[299] + 0.7L * (kl[300] - kl[299])), 1e-13);
  EXPECT_NEAR(found.max_kl, static_cast<double>(kl[300]), 1e-13);
  EXPECT_NEAR(found.reference_perplexity, static_cast<double>(std::exp(p_loss / 301)), 1e-10);
  EXPECT_NEAR(found.candidate_perplexity, static_cast<double>(std::exp(q_loss / 301)), 1e-10);
  EXPECT_NEAR(found.perplexity_ratio.value, static_cast<double>(std::exp(mean(ratio))), 1e-12);
  EXPECT_NEAR(found.perplexity_ratio.standard_error, found.perplexity_ratio.value * error(ratio), 1e-12);
  EXPECT_NEAR(found.probability_change.value, static_cast<double>(mean(change)), 1e-14);
  EXPECT_NEAR(found.probability_change.standard_error, error(change), 1e-14);
  for (long double& x : change) x *= x;
  EXPECT_NEAR(found.rms_probability_change, static_cast<double>(std::sqrt(mean(change))), 1e-14);
}

TEST(Summarize, CountsAgreement) {
  std::vector<TokenDivergence> tokens(4);
  tokens[0].same_top1 = tokens[1].same_top1 = tokens[2].same_top1 = true;
  for (TokenDivergence& token : tokens) token.top5_overlap = 0.8;
  const Divergence found = summarize(tokens);
  EXPECT_DOUBLE_EQ(found.top1_agreement.value, 0.75);
  EXPECT_DOUBLE_EQ(found.top1_agreement.standard_error, 0.25);  // sqrt(p (1 - p) / (n - 1))
  EXPECT_DOUBLE_EQ(found.top5_agreement.value, 0.8);
  EXPECT_EQ(found.perplexity_ratio.value, 1);
  EXPECT_EQ(summarize({}).tokens, 0);
}

TEST(CompareLogits, OfAModelWithItselfIsExactlyNothing) {
  ThreadPool pool(3);
  const Model model = *Model::load(RandomSource(small_spec()), {}, pool);
  const ScoredText text = *scored_text(random_ids(2500, 61), {Protocol::windows, 96}, 96);
  ModelLogits a(model, text, pool), b(model, text, pool), c(model, text, pool);
  LogitSource* const candidates[] = {&b, &c};
  const auto found = compare_logits(a, candidates, pool);
  ASSERT_TRUE(found);
  for (const Divergence& divergence : *found) {
    EXPECT_EQ(divergence.tokens, 26 * 95);
    EXPECT_EQ(divergence.max_kl, 0);
    EXPECT_EQ(divergence.mean_kl.value, 0);
    EXPECT_EQ(divergence.mean_kl.standard_error, 0);
    EXPECT_EQ(divergence.top1_agreement.value, 1);
    EXPECT_EQ(divergence.top5_agreement.value, 1);
    EXPECT_EQ(divergence.perplexity_ratio.value, 1);
    EXPECT_EQ(divergence.perplexity_ratio.standard_error, 0);
    EXPECT_EQ(divergence.probability_change.value, 0);
  }
}

TEST(CompareLogits, DoesNotDependOnThreads) {
  ThreadPool one(1), four(4);
  const ScoredText text = predicting(random_ids(3000, 50));
  std::vector<Divergence> found;
  for (ThreadPool* pool : {&one, &four}) {
    auto a = testing::random_rows(text, 50, 1), b = testing::random_rows(text, 50, 2);
    LogitSource* const candidates[] = {&b};
    found.push_back((*compare_logits(a, candidates, *pool))[0]);
  }
  EXPECT_EQ(found[0].kl, found[1].kl);
  EXPECT_EQ(found[0].mean_kl.value, found[1].mean_kl.value);
  EXPECT_EQ(found[0].p999_kl.standard_error, found[1].p999_kl.standard_error);
}

TEST(CompareLogits, HandsOverTheReferencesRows) {
  ThreadPool pool(1);
  const ScoredText text = predicting(random_ids(2000, 10));
  auto reference = testing::random_rows(text, 10, 1);
  std::vector<float> seen;
  const auto found = compare_logits(reference, {}, pool, {}, [&](std::span<const float> rows) -> Status {
    seen.insert(seen.end(), rows.begin(), rows.end());
    return {};
  });
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->empty());
  EXPECT_EQ(seen, reference.rows());
  reference.rewind();
  const auto failed = compare_logits(reference, {}, pool, {}, [](std::span<const float>) -> Status {
    return fail(ErrorCode::resources, "disk full");
  });
  expect_error(failed, ErrorCode::resources, "disk full");
}

TEST(CompareLogits, RefusesOtherVocabulariesAndTexts) {
  ThreadPool pool(1);
  auto reference = testing::random_rows(predicting({1, 2}), 4, 1),
       same = testing::random_rows(predicting({1, 2}), 4, 1);
  auto wide = testing::random_rows(predicting({1, 2}), 5, 1), other = testing::random_rows(predicting({1, 3}), 4, 1);
  LogitSource *const first[] = {&same, &wide}, *const second[] = {&other};
  expect_error(compare_logits(reference, first, pool), ErrorCode::corrupt, "candidate 2 has a vocabulary of 5", "of 4");
  expect_error(compare_logits(reference, second, pool), ErrorCode::corrupt, "token 2 is 2 and 3");
}

}  // namespace
}  // namespace nibble
