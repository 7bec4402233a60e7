#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

namespace nibble {
namespace {

std::vector<float> logits_of(std::initializer_list<double> probabilities) {
  std::vector<float> out;
  for (double p : probabilities) out.push_back(static_cast<float>(std::log(p)));
  return out;
}

// Shares of 20000 draws.
std::map<int32_t, double> shares(SamplingOptions options, const std::vector<float>& logits) {
  Sampler sampler(options);
  std::map<int32_t, double> out;
  for (int i = 0; i < 20000; ++i) out[sampler.next(logits)] += 1.0 / 20000;
  return out;
}

std::set<int32_t> kept(SamplingOptions options, const std::vector<float>& logits) {
  std::set<int32_t> out;
  for (const auto& [id, share] : shares(options, logits)) out.insert(id);
  return out;
}

TEST(Sampler, GreedyTakesTheLowerIdOfATie) {
  Sampler sampler({});
  EXPECT_EQ(sampler.next(std::vector<float>{1, 3, 2, 3}), 1);
  EXPECT_EQ(sampler.next(std::vector<float>{-5}), 0);
}

TEST(Sampler, DrawsInProportion) {
  const auto plain = shares({.temperature = 1}, logits_of({0.1, 0.6, 0.3}));
  EXPECT_NEAR(plain.at(0), 0.1, 0.01);
  EXPECT_NEAR(plain.at(1), 0.6, 0.015);
  EXPECT_NEAR(plain.at(2), 0.3, 0.015);
  const auto cold = shares({.temperature = 0.5}, logits_of({0.1, 0.6, 0.3}));  // in proportion to squares
  EXPECT_NEAR(cold.at(1), 0.36 / 0.46, 0.015);
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2}, logits_of({0.1, 0.2, 0.3, 0.4})), (std::set<int32_t>{2, 3}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2}, {0, 0, 0, 0}), (std::set<int32_t>{0, 1}));  // ties: lower ids
  EXPECT_EQ(kept({.temperature = 1, .top_k = 99}, {0, 0, 0, 0}).size(), 4u);
}

TEST(Sampler, TopPKeepsTheShortestRunThatReachesIt) {
  const std::vector<float> logits = logits_of({0.15, 0.5, 0.05, 0.3});
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.4}, logits), (std::set<int32_t>{1}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.7}, logits), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.9}, logits), (std::set<int32_t>{0, 1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0}, logits), (std::set<int32_t>{1}));
}

TEST(Sampler, MinPIsRelativeToTheLikeliest) {
  const std::vector<float> logits = logits_of({0.15, 0.5, 0.05, 0.3});
  EXPECT_EQ(kept({.temperature = 1, .min_p = 0.2}, logits), (std::set<int32_t>{0, 1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .min_p = 0.5}, logits), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .min_p = 1}, logits), (std::set<int32_t>{1}));
}

// After top-k the two that are left have 5/8 and 3/8, so the first alone reaches 0.6.
TEST(Sampler, EachFilterSeesWhatTheOneBeforeLeft) {
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2, .top_p = 0.6}, logits_of({0.5, 0.3, 0.1, 0.1})),
            (std::set<int32_t>{0}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.6}, logits_of({0.5, 0.3, 0.1, 0.1})), (std::set<int32_t>{0, 1}));
}

TEST(Sampler, TheSeedDecides) {
  const std::vector<float> logits(50, 0.0f);
  auto draw = [&](uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<int32_t> out;
    for (int i = 0; i < 20; ++i) out.push_back(sampler.next(logits));
    return out;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

}  // namespace
}  // namespace nibble
