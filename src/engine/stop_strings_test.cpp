#include "engine/stop_strings.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/random.h"

namespace nibble {
namespace {

TEST(StopStrings, HoldsBackWhatMayBecomeOne) {
  StopStrings stops({"\n\nUser:", "END"});
  EXPECT_EQ(stops.push("one\n"), "one");
  EXPECT_EQ(stops.push("two"), "\ntwo");
  EXPECT_EQ(stops.push(" E"), " ");
  EXPECT_EQ(stops.push("N"), "");
  EXPECT_EQ(stops.push("ough\n\nUs"), "ENough");
  EXPECT_FALSE(stops.stopped());
  EXPECT_EQ(stops.push("er: no"), "");
  EXPECT_TRUE(stops.stopped());
  EXPECT_EQ(stops.push("more"), "");
  EXPECT_EQ(stops.finish(), "");
}

TEST(StopStrings, FinishGivesOutTheRest) {
  StopStrings stops({"abc"});
  EXPECT_EQ(stops.push("xab"), "x");
  EXPECT_EQ(stops.finish(), "ab");
}

TEST(StopStrings, NoneAndEmptyOnes) {
  StopStrings stops({"", ""});
  EXPECT_EQ(stops.push("text"), "text");
  EXPECT_FALSE(stops.stopped());
}

// The start of the longest stop string that the shortest beginning of the text ends with.
size_t first_stop(const std::string& text, const std::vector<std::string>& strings) {
  for (size_t end = 0; end <= text.size(); ++end) {
    size_t start = std::string::npos;
    for (const std::string& stop : strings)
      if (text.substr(0, end).ends_with(stop)) start = std::min(start, end - stop.size());
    if (start != std::string::npos) return start;
  }
  return text.size();
}

// Random texts over two letters, cut at random: the output is what lies before the first match in the whole text.
TEST(StopStrings, EqualsASearchInTheWholeText) {
  Random random(4);
  auto letters = [&](uint64_t least, uint64_t most) {
    std::string out;
    for (uint64_t n = least + random.below(most - least + 1); n > 0; --n) out += random.below(2) ? 'a' : 'b';
    return out;
  };
  int matches = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> strings;
    for (uint64_t n = 1 + random.below(3); n > 0; --n) strings.push_back(letters(2, 7));
    const std::string text = letters(0, 24);
    const size_t first = first_stop(text, strings);
    StopStrings stops(strings);
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const size_t count = 1 + random.below(4);
      out += stops.push(text.substr(at, count));
      at += count;
      ASSERT_LE(out.size(), first);  // never a part of one
    }
    out += stops.finish();
    ASSERT_EQ(out, text.substr(0, first));
    ASSERT_EQ(stops.stopped(), first < text.size());
    matches += stops.stopped();
  }
  EXPECT_GT(matches, 5000);
  EXPECT_LT(matches, 19000);
}

}  // namespace
}  // namespace nibble
