#include "measure/text.h"

#include <gtest/gtest.h>

#include "core/testing.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::expect_ok;

// One token per character a..e; `template_of` may put <s> (5) in front or </s> (6) behind.
Tokenizer letters(std::string_view post_processor) {
  const std::string json = fmt::format(
      R"({{"version":"1.0","truncation":null,"padding":null,"added_tokens":[
        {{"id":5,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}},
        {{"id":6,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}],
        "normalizer":null,"pre_tokenizer":null,"post_processor":{},"decoder":null,
        "model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
        "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
        "vocab":{{"a":0,"b":1,"c":2,"d":3,"e":4}},"merges":[]}}}})",
      post_processor);
  auto tokenizer = Tokenizer::parse(json, "letters");
  if (!tokenizer) throw std::runtime_error(tokenizer.error().message);
  return *tokenizer;
}

std::string template_of(std::string_view pieces) {
  return fmt::format(R"({{"type":"TemplateProcessing","single":[{}],"pair":[{}],"special_tokens":{{
      "<s>":{{"id":"<s>","ids":[5],"tokens":["<s>"]}},"</s>":{{"id":"</s>","ids":[6],"tokens":["</s>"]}}}}}})",
                     pieces, pieces);
}
constexpr std::string_view kText = R"({"Sequence":{"id":"A","type_id":0}})";
constexpr std::string_view kBos = R"({"SpecialToken":{"id":"<s>","type_id":0}})";
constexpr std::string_view kEos = R"({"SpecialToken":{"id":"</s>","type_id":0}})";

TEST(LeadingToken, IsWhatStandsInFrontOfAText) {
  EXPECT_EQ(leading_token(letters("null")), std::nullopt);
  EXPECT_EQ(leading_token(letters(template_of(fmt::format("{},{}", kBos, kText)))), 5);
  EXPECT_EQ(leading_token(letters(template_of(fmt::format("{},{},{}", kBos, kText, kEos)))), 5);
  EXPECT_EQ(leading_token(letters(template_of(fmt::format("{},{}", kText, kEos)))), std::nullopt);
}

TEST(ReadScoredText, ChoosesTheWindow) {
  const Tokenizer tokenizer = letters("null");
  const std::string text(5000, 'a');
  EXPECT_EQ(read_scored_text(text, {}, tokenizer, 64)->window, 64);
  EXPECT_EQ(read_scored_text(text, {}, tokenizer, 4096)->window, 2048);
  EXPECT_EQ(read_scored_text(text, {"windows", 10}, tokenizer, 64)->window, 10);
  const auto strided = read_scored_text(text, {"strided"}, tokenizer, 64);
  EXPECT_EQ(strided->stride, 32);
  EXPECT_EQ(strided->protocol, "strided");
  EXPECT_EQ(read_scored_text(text, {"strided", 64, 7}, tokenizer, 64)->stride, 7);
}

TEST(ReadScoredText, TokenisesOnceWithSpecialTokens) {
  const Tokenizer tokenizer = letters(template_of(fmt::format("{},{}", kBos, kText)));
  const auto windows = read_scored_text("abcdeab", {"windows", 4}, tokenizer, 8);
  EXPECT_EQ(windows->ids, (std::vector<int32_t>{5, 0, 1, 2, 3, 4, 0, 1}));
  const auto halves = read_scored_text("abcdeab", {"second-half", 4}, tokenizer, 8);
  EXPECT_EQ(halves->ids, (std::vector<int32_t>{5, 0, 1, 2, 5, 4, 0, 1}));
  EXPECT_EQ(halves->targets(), (std::vector<int32_t>{2, 1}));
}

TEST(ReadScoredText, ReadsPresets) {
  const auto text = read_scored_text("a \n b\n", {"windows", 2, 0, "ptb-new"}, letters("null"), 8);
  expect_ok(text);
  EXPECT_EQ(text->preset, "ptb-new");
  EXPECT_EQ(text->ids, (std::vector<int32_t>{0, 1}));  // the blank is no token
}

TEST(ReadScoredText, RefusesContradictions) {
  const Tokenizer tokenizer = letters("null");
  const auto refused = [&](const TextOptions& options, std::string_view part) {
    expect_error(read_scored_text("abcd", options, tokenizer, 64), ErrorCode::usage, part);
  };
  refused({"window"}, "there is no protocol \"window\"");
  refused({"windows", 4, 2}, "a stride of 2 with the protocol windows");
  refused({"strided", 4, 0, "ptb"}, "preset ptb is scored by the protocol windows, not strided");
  refused({"windows", 4, 0, "c5"}, "there is no preset \"c5\"");
  refused({"windows", 65}, "a window of 65 tokens does not fit the model's 64 positions");
  refused({"windows", 0}, "the text has 4 tokens, which do not fill one window of 64");
}

}  // namespace
}  // namespace nibble
