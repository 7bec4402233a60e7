#include "measure/protocol.h"

#include <gtest/gtest.h>

#include <numeric>

#include "core/testing.h"

namespace nibble {
namespace {

using testing::expect_error;

std::vector<int32_t> ids_to(int32_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

using Passages = std::vector<Passage>;

TEST(Protocol, NamesGoBothWays) {
  for (Protocol protocol : {Protocol::windows, Protocol::strided, Protocol::second_half})
    EXPECT_EQ(*protocol_named(name_of(protocol)), protocol);
  EXPECT_EQ(name_of(Protocol::second_half), "second-half");
  expect_error(protocol_named("halves"), ErrorCode::usage, "\"halves\"", "windows, strided or second-half");
}

TEST(Protocol, WindowsPredictAllButTheirFirstToken) {
  const ScoredText text = *scored_text(ids_to(11), {Protocol::windows, 4}, 4);
  EXPECT_EQ(text.passages, (Passages{{0, 4, 1}, {4, 4, 1}}));
  EXPECT_EQ(text.targets(), (std::vector<int32_t>{1, 2, 3, 5, 6, 7}));
  EXPECT_EQ(text.predictions(), 6);
  EXPECT_EQ(text.tokens_run(), 8);
  EXPECT_EQ(text.ids, ids_to(11));
}

TEST(Protocol, StridedPredictsEveryTokenButTheFirstOnce) {
  const ScoredText text = *scored_text(ids_to(9), {Protocol::strided, 4, 2}, 4);
  EXPECT_EQ(text.passages, (Passages{{0, 4, 1}, {2, 4, 2}, {4, 4, 2}, {6, 3, 2}}));
  EXPECT_EQ(text.targets(), (std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 8}));
}

TEST(Protocol, StridedTargetsAreTheTextForAllStrides) {
  for (int32_t count : {2, 5, 16, 17, 31})
    for (int64_t window : {2, 3, 7, 40})
      for (int64_t stride = 1; stride < window; ++stride) {
        const ScoredText text = *scored_text(ids_to(count), {Protocol::strided, window, stride}, 64);
        std::vector<int32_t> all = ids_to(count);
        all.erase(all.begin());
        EXPECT_EQ(text.targets(), all) << count << " " << window << " " << stride;
        for (size_t i = 1; i < text.passages.size(); ++i) EXPECT_GE(text.passages[i].first, window - stride);
      }
}

// A last window of one token predicts nothing and is left out.
TEST(Protocol, AStrideOfTheWindowLeavesOutTheFirstTokens) {
  const ScoredText text = *scored_text(ids_to(9), {Protocol::strided, 4, 4}, 4);
  EXPECT_EQ(text.passages, (Passages{{0, 4, 1}, {4, 4, 1}}));
  const ScoredText longer = *scored_text(ids_to(10), {Protocol::strided, 4, 4}, 4);
  EXPECT_EQ(longer.passages, (Passages{{0, 4, 1}, {4, 4, 1}, {8, 2, 1}}));
}

TEST(Protocol, AShortTextIsOneStridedWindow) {
  EXPECT_EQ(scored_text(ids_to(3), {Protocol::strided, 8, 4}, 8)->passages, (Passages{{0, 3, 1}}));
}

TEST(Protocol, SecondHalfPredictsBehindTheMiddle) {
  const ScoredText text = *scored_text(ids_to(17), {Protocol::second_half, 8, 0, std::nullopt}, 8);
  EXPECT_EQ(text.passages, (Passages{{0, 8, 5}, {8, 8, 5}}));
  EXPECT_EQ(text.targets(), (std::vector<int32_t>{5, 6, 7, 13, 14, 15}));
  EXPECT_EQ(scored_text(ids_to(7), {Protocol::second_half, 7}, 8)->targets(), (std::vector<int32_t>{4, 5, 6}));
}

TEST(Protocol, SecondHalfPutsTheBosAtTheStartOfEveryWindow) {
  const ScoredText text = *scored_text(ids_to(9), {Protocol::second_half, 4, 0, 77}, 8);
  EXPECT_EQ(text.ids, (std::vector<int32_t>{77, 1, 2, 3, 77, 5, 6, 7, 8}));
  EXPECT_EQ(text.targets(), (std::vector<int32_t>{3, 7}));
}

TEST(Protocol, RefusesWhatCannotBeScored) {
  const auto refused = [](int32_t ids, ProtocolOptions options, std::string_view part) {
    expect_error(scored_text(ids_to(ids), options, 16), ErrorCode::usage, part);
  };
  refused(7, {Protocol::windows, 8}, "the text has 7 tokens, which do not fill one window of 8");
  refused(7, {Protocol::second_half, 8}, "the text has 7 tokens, which do not fill one window of 8");
  refused(50, {Protocol::windows, 1}, "a window of 1 tokens predicts nothing");
  refused(50, {Protocol::windows, -4}, "a window of -4 tokens");
  refused(50, {Protocol::second_half, 2}, "protocol second-half takes at least 3");
  refused(50, {Protocol::windows, 17}, "a window of 17 tokens does not fit the model's 16 positions");
  refused(50, {Protocol::strided, 8, 0}, "a stride of 0 tokens; expected 1 to the window's 8");
  refused(50, {Protocol::strided, 8, 9}, "a stride of 9 tokens");
  refused(1, {Protocol::strided, 8, 4}, "the text has 1 tokens");
  refused(0, {Protocol::strided, 8, 4}, "the text has 0 tokens");
}

TEST(Protocol, TellsHowTextsDiffer) {
  const auto text = [](std::vector<int32_t> ids, Passages passages) {
    return ScoredText{std::move(ids), std::move(passages)};
  };
  const ScoredText one = text({1, 2, 3}, {{0, 3, 1}});
  EXPECT_EQ(difference_of(one, one), std::nullopt);
  EXPECT_EQ(difference_of(one, text({1, 2}, {})), "3 and 2 tokens");
  EXPECT_EQ(difference_of(one, text({1, 9, 3}, {{0, 3, 1}})), "token 1 is 2 and 9");
  EXPECT_EQ(difference_of(one, text({1, 2, 3}, {})), "1 and 0 windows");
  EXPECT_EQ(difference_of(one, text({1, 2, 3}, {{0, 3, 2}})),
            "window 0 predicts tokens 1..2 of 3 from 0, and 2..2 of 3 from 0");
}

}  // namespace
}  // namespace nibble
