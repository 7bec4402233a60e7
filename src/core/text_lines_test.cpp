#include "core/text_lines.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

using Lines = std::vector<std::string_view>;

TEST(TextLines, LoseTheirEnds) {
  EXPECT_EQ(lines_of(""), Lines{});
  EXPECT_EQ(lines_of("\n"), Lines{""});
  EXPECT_EQ(lines_of("a"), Lines{"a"});
  EXPECT_EQ(lines_of("a\r\n\nb\r\n"), (Lines{"a", "", "b"}));
  EXPECT_EQ(lines_of(" a\rb \n\r\r\n\r"), (Lines{" a\rb ", "\r", ""}));
}

TEST(TextLines, OfWhiteSpaceAreBlank) {
  for (const char* blank : {"", " ", " \t\r\n\v\f"}) EXPECT_TRUE(is_blank(blank));
  for (const char* text : {"a", " . ", "\u00a0"}) EXPECT_FALSE(is_blank(text));
}

}  // namespace
}  // namespace nibble
