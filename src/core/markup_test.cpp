#include "core/markup.h"

#include "core/testing.h"

namespace nibble {
namespace {

TEST(Markup, CharactersOfTheLanguageBecomeReferences) {
  EXPECT_EQ(escaped("plain, \u00e9"), "plain, \u00e9");
  EXPECT_EQ(escaped("<a href=\"x\">it's & </a>"), "&lt;a href=&quot;x&quot;&gt;it&#39;s &amp; &lt;/a&gt;");
}

TEST(Markup, WhatDocumentsForbidIsReplaced) {
  EXPECT_EQ(escaped(std::string_view("a\0b\x1b\x7f", 5)),
            "a\uFFFD"
            "b\uFFFD\uFFFD");
  EXPECT_EQ(escaped("tab\tline\n"), "tab\tline\n");
  EXPECT_EQ(escaped("cut \xC3"), "cut \uFFFD");
}

}  // namespace
}  // namespace nibble
