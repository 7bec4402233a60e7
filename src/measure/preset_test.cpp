#include "measure/preset.h"

#include <gtest/gtest.h>

#include "core/json.h"
#include "core/testing.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::expect_ok;

// Every byte is a token.
std::vector<int32_t> bytes_as_ids(std::string_view text) { return {text.begin(), text.end()}; }

std::string text_of(std::string_view preset, std::string_view file, int64_t window = 4) {
  const auto ids = preset_ids(preset, file, window, bytes_as_ids);
  if (!ids) return ids.error().message;
  return {ids->begin(), ids->end()};
}

TEST(Preset, JoinsTheRowsOfWikitext) {
  EXPECT_EQ(text_of("wikitext2", " \n = Title = \n \n A line .\n"), "\n\n = Title = \n\n\n\n\n A line .\n");
  EXPECT_EQ(text_of("wikitext2", "a\r\n\r\nb"), "a\n\n\n\n\nb");
  EXPECT_EQ(text_of("wikitext2", ""), "");
}

TEST(Preset, JoinsTheSentencesOfThePennTreebank) {
  EXPECT_EQ(text_of("ptb", " no it was n't \n but <unk> N \n"), "no it was n't\n\nbut <unk> N");
  EXPECT_EQ(text_of("ptb-new", " no it was n't \n but <unk> N \n"), "no it was n't but <unk> N");
}

TEST(Preset, JoinsTheFirstDocumentsOfC4) {
  EXPECT_EQ(text_of("c4-new", "{\"text\":\"one\\ntwo\",\"url\":\"x\"}\n\n{\"text\":\"three\"}\n"), "one\ntwo three");
  std::string file;
  for (int i = 0; i < 1200; ++i) file += fmt::format("{{\"text\":\"{:04}\"}}\n", i);
  const std::string all = text_of("c4-new", file, 100);
  EXPECT_EQ(all.size(), 1100u * 5 - 1);
  EXPECT_EQ(all.substr(all.size() - 4), "1099");
  EXPECT_EQ(text_of("c4-new", file, 4).size(), 4u * 256);
  EXPECT_EQ(text_of("c4-new", file, 4), all.substr(0, 4 * 256));
}

// What this script prints (CPython 3.11):
//   import random
//   texts = ["".join(chr(33 + (7 * d + i) % 90) for i in range(3 + 5 * d)) for d in range(8)]
//   random.seed(0); out = []
//   for _ in range(256):
//       while True:
//           t = texts[random.randint(0, 7)]
//           if len(t) > 12: break
//       i = random.randint(0, len(t) - 12 - 1)
//       out.append(t[i:i + 12])
//   print("".join(out)[:60], "".join(out)[-24:])
TEST(Preset, DrawsTheWindowsOfC4) {
  std::string file;
  for (int d = 0; d < 8; ++d) {
    std::string text;
    for (int i = 0; i < 3 + 5 * d; ++i) text += static_cast<char>(33 + (7 * d + i) % 90);
    file += dump_json({{"text", text}}) + "\n";
  }
  const std::string drawn = text_of("c4", file, 12);
  ASSERT_EQ(drawn.size(), 256u * 12);
  EXPECT_EQ(drawn.substr(0, 60), "XYZ[\\]^_`abcEFGHIJKLMNOP^_`abcdefghiDEFGHIJKLMNOJKLMNOPQRSTU");
  EXPECT_EQ(drawn.substr(drawn.size() - 24), "MNOPQRSTUVWXTUVWXYZ[\\]^_");
}

TEST(Preset, RefusesC4WithoutLongDocuments) {
  expect_error(preset_ids("c4", "{\"text\":\"abcd\"}\n{\"text\":\"ab\"}\n", 4, bytes_as_ids), ErrorCode::usage,
               "none of the 2 documents has more than 4 tokens");
  expect_error(preset_ids("c4", "", 4, bytes_as_ids), ErrorCode::usage, "none of the 0 documents");
}

TEST(Preset, NamesTheLineThatIsWrong) {
  for (const char* preset : {"c4", "c4-new"}) {
    expect_error(preset_ids(preset, "{\"text\":\"a\"}\n{\"text\":\"a\"\n", 4, bytes_as_ids), ErrorCode::corrupt,
                 "line 2");
    expect_error(preset_ids(preset, "\n\n{\"txt\":\"a\"}\n", 4, bytes_as_ids), ErrorCode::corrupt, "line 3",
                 "\"text\"");
    expect_error(preset_ids(preset, "{\"text\":7}", 4, bytes_as_ids), ErrorCode::corrupt, "line 1", "\"text\"");
    expect_error(preset_ids(preset, "[1]\n", 4, bytes_as_ids), ErrorCode::corrupt, "line 1", "\"text\"");
  }
}

TEST(Preset, RefusesUnknownNames) {
  expect_error(preset_ids("wikitext", "", 4, bytes_as_ids), ErrorCode::usage, "\"wikitext\"", "wikitext2, ptb");
}

}  // namespace
}  // namespace nibble
