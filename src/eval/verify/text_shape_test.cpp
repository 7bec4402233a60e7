#include "eval/verify/text_shape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace nibble {
namespace {

using Ids = std::vector<int32_t>;

// Runs that begin with one given token, as drawn texts do.
SampledText text_of(const std::vector<Ids>& drawn, double mean_entropy = 0) {
  SampledText out;
  for (const Ids& ids : drawn) {
    SampledRun run{{9999}, 1};
    run.ids.insert(run.ids.end(), ids.begin(), ids.end());
    out.drawn += static_cast<int64_t>(ids.size());
    out.runs.push_back(run);
  }
  out.mean_entropy = mean_entropy;
  return out;
}

// No token twice.
Ids varied(int32_t count, int32_t first = 0) {
  Ids out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), first);
  return out;
}

Ids repeating(int32_t period, int32_t count) {
  Ids out;
  for (int32_t i = 0; i < count; ++i) out.push_back(i % period);
  return out;
}

std::string fault_alone(const TextShape& shape) { return fault_of(shape, kShapeAlone); }

TEST(TextShape, OfVariedText) {
  const TextShape shape = text_shape(text_of({varied(64), varied(64, 100)}, 0.5 * std::log(1000.0)), 1000);
  EXPECT_EQ(shape.commonest, 1.0 / 128);
  EXPECT_EQ(shape.distinct_bigrams, 1);
  EXPECT_EQ(shape.periodic, 0);
  EXPECT_NEAR(shape.entropy, 0.5, 1e-15);
  EXPECT_EQ(fault_alone(shape), "");
}

TEST(TextShape, OneTokenOverAndOver) {
  const TextShape shape = text_shape(text_of({Ids(64, 5)}), 1000);
  EXPECT_EQ(shape.commonest, 1);
  EXPECT_EQ(shape.distinct_bigrams, 1.0 / 63);
  EXPECT_EQ(shape.periodic, 63.0 / 64);  // the first one repeats nothing
  EXPECT_EQ(fault_alone(shape).rfind("one token makes up 100.0 %", 0), 0u) << fault_alone(shape);
}

TEST(TextShape, StretchesOfTwentyFourCount) {
  for (int32_t period = 1; period <= kLongestPeriod; ++period) {
    SCOPED_TRACE(period);
    EXPECT_EQ(text_shape(text_of({repeating(period, period + 24)}), 1000).periodic, 24.0 / (24 + period));
    EXPECT_EQ(text_shape(text_of({repeating(period, period + 23)}), 1000).periodic, 0);
  }
  EXPECT_EQ(text_shape(text_of({repeating(17, 200)}), 1000).periodic, 0);
}

TEST(TextShape, AStretchInTheMiddleEndsWhereItEnds) {
  Ids ids = varied(30, 100);
  for (int32_t id : repeating(3, 43)) ids.push_back(id);
  for (int32_t id : varied(27, 200)) ids.push_back(id);
  const TextShape shape = text_shape(text_of({ids}), 1000);
  EXPECT_EQ(shape.periodic, 0.4);
  EXPECT_EQ(fault_alone(shape), "");
}

TEST(TextShape, RepetitionIsAFault) {
  const TextShape shape = text_shape(text_of({repeating(7, 64)}), 1000);
  EXPECT_EQ(shape.periodic, 57.0 / 64);
  EXPECT_EQ(fault_alone(shape), "89.1 % of the text repeats itself, allowed are 50.0 %");
}

TEST(TextShape, RunsAreNotJoinedAndGivenTokensDoNotCount) {
  const SampledText text = text_of({Ids(20, 1), Ids(20, 1), {2}, {}});
  const TextShape shape = text_shape(text, 1000);
  EXPECT_EQ(shape.periodic, 0);                 // 19 in a row, twice
  EXPECT_EQ(shape.commonest, 40.0 / 41);        // the given tokens are as many as the runs
  EXPECT_EQ(shape.distinct_bigrams, 1.0 / 38);  // within runs
}

TEST(TextShape, NoiseIsAFault) {
  const TextShape shape = text_shape(text_of({varied(64)}, std::log(1000.0)), 1000);
  EXPECT_NEAR(shape.entropy, 1, 1e-15);
  EXPECT_EQ(fault_alone(shape), "predictions have 1.000 of the entropy of noise, allowed are 0.970");
}

TEST(TextShape, FewPairsAreAFault) {
  Ids ids;  // pairs of two tokens, in an order without a period
  for (uint32_t i = 0; i < 64; ++i) ids.push_back(i * i * i % 11 % 4 < 2 ? 1 : 2);
  TextShape shape = text_shape(text_of({ids}), 1000);
  EXPECT_EQ(shape.distinct_bigrams, 4.0 / 63);
  shape.commonest = shape.periodic = 0;
  EXPECT_EQ(fault_alone(shape), "only 6.3 % of the pairs of tokens are distinct, expected at least 15.0 %");
}

TEST(TextShape, LimitsThemselvesPass) {
  EXPECT_EQ(fault_of(kShapeAlone, kShapeAlone), "");
  const double beyond = 1e-6;
  for (double TextShape::*most : {&TextShape::commonest, &TextShape::periodic, &TextShape::entropy}) {
    TextShape shape = kShapeAlone;
    shape.*most += beyond;
    EXPECT_NE(fault_of(shape, kShapeAlone), "");
  }
  TextShape shape = kShapeAlone;
  shape.distinct_bigrams -= beyond;
  EXPECT_NE(fault_of(shape, kShapeAlone), "");
}

TEST(TextShape, NothingDrawnIsNoFault) {
  EXPECT_EQ(fault_alone(text_shape(SampledText{}, 1000)), "");
  EXPECT_EQ(text_shape(text_of({{4}}), 1).entropy, 0);  // a vocabulary of one
}

void expect_limits(const TextShape& reference, const TextShape& expected) {
  const TextShape limit = limits_beside(reference);
  EXPECT_NEAR(limit.commonest, expected.commonest, 1e-12);
  EXPECT_NEAR(limit.distinct_bigrams, expected.distinct_bigrams, 1e-12);
  EXPECT_NEAR(limit.periodic, expected.periodic, 1e-12);
  EXPECT_NEAR(limit.entropy, expected.entropy, 1e-12);
}

TEST(TextShape, AReferenceMovesTheLimits) {
  expect_limits({0.1, 0.9, 0, 0.4}, {0.5, 0.15, 0.5, 0.6});     // one that writes well: only the entropy
  expect_limits({0.1, 0.9, 0, 0}, {0.5, 0.15, 0.5, 0.5});       // one that is sure of everything
  expect_limits({0.6, 0.2, 0.7, 0.5}, {0.75, 0.1, 0.9, 0.75});  // a monotonous one
  expect_limits({0.36, 0.31, 0.31, 0.6}, {0.51, 0.15, 0.51, 0.9});
  expect_limits({0.1, 0.9, 0, 0.8}, {0.5, 0.15, 0.5, 1});        // never more than noise
  expect_limits({0.1, 0.9, 0, 1.0000001}, {0.5, 0.15, 0.5, 1});  // not even where the reference is rounded up
}

}  // namespace
}  // namespace nibble
