// The small parts that tokenizers are made of.
#include <gtest/gtest.h>

#include "core/testing.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/known_characters.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace nibble {
namespace {

std::string shown(const std::vector<Span>& spans, std::string_view text) {
  std::string out;
  for (const Span& span : spans) {
    out += span.match ? '[' : '(';
    out += text.substr(span.begin, span.end - span.begin);
    out += span.match ? ']' : ')';
  }
  return out;
}
std::string found(std::string_view pattern, std::string_view text) {
  auto regex = Regex::compile(pattern, "test");
  EXPECT_TRUE(regex.has_value()) << regex.error().message;
  Work work(text.size());
  return shown(regex->find(text, work), text);
}

TEST(Regex, FindsMatchesAndWhatIsBetween) {
  EXPECT_EQ(found("b", "abcb"), "(a)[b](c)[b]");
  EXPECT_EQ(found("x*", "axxb"), "[](a)[xx](b)[]");
  EXPECT_EQ(found("", "ab"), "[](a)[](b)[]");
  EXPECT_EQ(found("x", ""), "()");
  EXPECT_EQ(found("\\s+(?!\\S)|\\s+", "a   b  "), "(a)[  ][ ](b)[  ]");
  EXPECT_EQ(found("(?<=a)b", "abb"), "(a)[b](b)");
  EXPECT_EQ(found("\\p{L}+", "\u00e9t\u00e9 1"), "[\u00e9t\u00e9]( 1)");
}

TEST(Regex, KnowsLettersThatAreNewerThanItsTables) {
  EXPECT_EQ(found("\\p{L}", "\U00013460\uA7CB1"), "[\U00013460][\uA7CB](1)");
  EXPECT_EQ(found("\\p{N}", "\U00011F50a"), "[\U00011F50](a)");
  std::string store;
  EXPECT_EQ(with_known_characters("plain \u00e9 \u4e00", store), "plain \u00e9 \u4e00");
}

TEST(Regex, RefusesPatternsThatDoNotCompile) {
  testing::expect_error(Regex::compile("(", "file, \"key\""), ErrorCode::corrupt, "file, \"key\"", "compile");
  testing::expect_error(Regex::compile("[z-a]", "f"), ErrorCode::corrupt, "f");
  testing::expect_error(Regex::compile(std::string(100000, 'a'), "f"), ErrorCode::unsupported, "65536");
  testing::expect_error(Regex::compile(std::string(5000, '(') + std::string(5000, ')'), "f"), ErrorCode::corrupt, "f");
}

TEST(Regex, StopsWhenTheWorkIsUsedUp) {
  auto regex = Regex::compile("(a+)+$", "test");
  ASSERT_TRUE(regex.has_value());
  std::string text = std::string(50, 'a') + "b";
  Work work(text.size());
  EXPECT_EQ(shown(regex->find(text, work), text), "(" + text + ")");
  EXPECT_EQ(work.retries_left, 0);
  EXPECT_EQ(shown(regex->find("aa", work), "aa"), "(aa)");
  Work fresh(2);
  EXPECT_EQ(shown(regex->find("aa", fresh), "aa"), "[aa]");
}

TEST(Unicode, RepairsEveryIllFormedSequence) {
  EXPECT_TRUE(is_utf8("a\u00e9\u20ac\U0010FFFF"));
  for (std::string_view bad :
       {"\x80", "\xC1\x81", "\xE0\x80\x80", "\xED\xBF\xBF", "\xF5\x80\x80\x80", "\xE2\x82", "\xFF"})
    EXPECT_FALSE(is_utf8(bad));
  std::string out;
  EXPECT_EQ(append_repaired(out, "a\xF0\x9F\x98", false), 1u);  // the rest may still become a character
  EXPECT_EQ(append_repaired(out, "\xF0\x9F\x98\x80", false), 4u);
  EXPECT_EQ(append_repaired(out, "\xF0\x9F", true), 2u);
  EXPECT_EQ(out, "a\U0001F600\uFFFD");
}

TEST(Unicode, EncodesAndDecodesEveryCodePoint) {
  for (char32_t code = 0; code < 0x110000; code += code == 0xD7FF ? 0x801 : 1) {
    std::string text;
    append_code_point(text, code);
    size_t offset = 0;
    ASSERT_TRUE(is_utf8(text));
    ASSERT_EQ(next_code_point(text, offset), code);
    ASSERT_EQ(offset, text.size());
    ASSERT_EQ(known_character(known_character(code)), known_character(code));
    std::string store;
    ASSERT_EQ(with_known_characters(text, store).size(), text.size());
  }
}

TEST(Unicode, MapsBytesToSymbolsAndBack) {
  for (int byte = 0; byte < 256; ++byte) {
    size_t offset = 0;
    ASSERT_EQ(symbol_byte(next_code_point(byte_symbol(static_cast<unsigned char>(byte)), offset)), byte);
  }
  EXPECT_EQ(to_byte_symbols(" a\n\u00e9"), "\u0120a\u010a\u00c3\u00a9");
  EXPECT_EQ(symbol_byte(U' '), -1);
  EXPECT_EQ(symbol_byte(U'\u4e00'), -1);
}

TEST(Unicode, Normalizes) {
  EXPECT_EQ(normalized("e\u0301 \ufb01", NormalForm::nfc), "\u00e9 \ufb01");
  EXPECT_EQ(normalized("\u00e9 \ufb01", NormalForm::nfkd), "e\u0301 fi");
  EXPECT_EQ(normalized("q\u0307\u0323", NormalForm::nfc), "q\u0323\u0307");
  EXPECT_EQ(normalized("a\u06ec\U0001193d", NormalForm::nfc), "a\u06ec\U0001193d");  // not reordered: too new
  EXPECT_EQ(lowercased("\u0130\u00c9A"), "i\u0307\u00e9a");
}

std::string cut(const AddedTokenSearch& search, std::string_view text) {
  std::string out;
  for (const auto& stretch : search.cut(text)) {
    out += stretch.id < 0 ? "(" : std::to_string(stretch.id) + "[";
    out += text.substr(stretch.begin, stretch.end - stretch.begin);
    out += stretch.id < 0 ? ")" : "]";
  }
  return out;
}

TEST(AddedTokens, LeftmostLongestWins) {
  AddedTokenSearch search({{"ab", 1, false, false, false},
                           {"abcd", 2, false, false, false},
                           {"bc", 3, false, false, false},
                           {"ab", 9, false, false, false},
                           {"\xFFx", 4, false, false, false}});
  EXPECT_EQ(cut(search, "xabcabcdbcab"), "(x)1[ab](c)2[abcd]3[bc]1[ab]");
  EXPECT_EQ(cut(search, ""), "");
  EXPECT_EQ(cut(AddedTokenSearch(), "abc"), "(abc)");
}

TEST(AddedTokens, FlagsTakeBlanksAndWantWordBoundaries) {
  AddedTokenSearch search(
      {{"<l>", 1, false, true, false}, {"<r>", 2, false, false, true}, {"word", 3, true, false, false}});
  EXPECT_EQ(cut(search, "a \u3000<l> b"), "(a)1[ \u3000<l>]( b)");
  EXPECT_EQ(cut(search, "a <r> \n b"), "(a )2[<r> \n ](b)");
  EXPECT_EQ(cut(search, "word words sword \u00e9word (word)"), "3[word]( words sword \u00e9word ()3[word]())");
}

}  // namespace
}  // namespace nibble
