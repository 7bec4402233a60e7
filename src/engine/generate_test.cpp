#include "engine/generate.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/json.h"
#include "runtime/random_source.h"

namespace nibble {
namespace {

// 61 tokens: the bytes of a two-byte letter apart, and single characters.
Tokenizer small_tokenizer() {
  const auto folder = std::filesystem::path(testing::TempDir()) / "nibble_generate_test";
  std::filesystem::create_directories(folder);
  Json vocabulary;
  int32_t next = 0;
  for (const char* byte : {"Ã", "©", "¤"}) vocabulary[byte] = next++;
  for (char c = '!'; next < 61; ++c) vocabulary[std::string(1, c)] = next++;
  const Json json = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", Json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"vocab", vocabulary},
        {"merges", Json::array()}}}};
  std::ofstream(folder / "tokenizer.json") << json.dump();
  auto tokenizer = Tokenizer::load(folder);
  if (!tokenizer) throw std::runtime_error(tokenizer.error().message);
  return *tokenizer;
}

bool whole_code_points(std::string_view text) {
  return text.empty() || (static_cast<unsigned char>(text[0]) & 0xC0) != 0x80;
}

class Generate : public testing::Test {
 protected:
  Result<Generation> run(const GenerationOptions& options, int64_t prompt_length = 3) {
    std::vector<int32_t> prompt;
    for (int64_t i = 0; i < prompt_length; ++i) prompt.push_back(static_cast<int32_t>(i % 61));
    streamed_.clear();
    auto out = generate(model_, tokenizer_, prompt, options, pool_, [&](std::string_view text) {
      EXPECT_TRUE(whole_code_points(text));
      streamed_ += text;
      return streamed_.size() < cancel_at_;
    });
    if (out && out->reason != StopReason::cancelled) {
      EXPECT_EQ(out->text, streamed_);
    }
    return out;
  }

  static GenerationOptions warm(uint64_t seed) {
    GenerationOptions options;
    options.max_tokens = 40;
    options.sampling.temperature = 1.5;
    options.sampling.seed = seed;
    return options;
  }

  ThreadPool pool_{1};
  Model model_ = *Model::load(RandomSource(small_spec()), {}, pool_);
  Tokenizer tokenizer_ = small_tokenizer();
  std::string streamed_;
  size_t cancel_at_ = std::string::npos;
};

TEST_F(Generate, StopsAtTheNumberOfTokens) {
  const Generation out = *run(warm(1));
  EXPECT_EQ(out.reason, StopReason::length);
  EXPECT_EQ(out.token_ids.size(), 40u);
  EXPECT_EQ(out.prompt_tokens, 3);
  EXPECT_EQ(out.text, tokenizer_.decode(out.token_ids));
  GenerationOptions none = warm(1);
  none.max_tokens = 0;
  EXPECT_TRUE(run(none)->token_ids.empty());
}

TEST_F(Generate, GreedyRepeatsItselfAndChunksDoNotMatter) {
  GenerationOptions options;
  options.max_tokens = 30;
  const Generation whole = *run(options, 17);
  for (int64_t chunk : {1, 4, 17}) {
    options.prefill_chunk = chunk;
    EXPECT_EQ(run(options, 17)->token_ids, whole.token_ids) << chunk;
  }
}

TEST_F(Generate, EndsBeforeAStopString) {
  int stopped = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const std::string whole = run(warm(seed))->text;
    GenerationOptions options = warm(seed);
    options.stop = {whole.substr(seed % 30, 1 + seed % 3), "never appears"};
    if (!whole_code_points(options.stop[0])) continue;
    const Generation out = *run(options);
    EXPECT_EQ(out.text, whole.substr(0, whole.find(options.stop[0])));
    EXPECT_EQ(out.reason, StopReason::stop_string);
    ++stopped;
  }
  EXPECT_GT(stopped, 30);
}

TEST_F(Generate, EndsAtAStopToken) {
  const std::vector<int32_t> ids = run(warm(3))->token_ids;
  GenerationOptions options = warm(3);
  options.stop_tokens = {1000, ids[20]};
  const Generation out = *run(options);
  const auto first = std::find(ids.begin(), ids.end(), ids[20]);
  EXPECT_EQ(out.token_ids, std::vector<int32_t>(ids.begin(), first + 1));
  EXPECT_EQ(out.text, tokenizer_.decode(std::vector<int32_t>(ids.begin(), first)));
  EXPECT_EQ(out.reason, StopReason::stop_token);
}

// The last position can be read, and what it predicts can be given out, but not fed back.
TEST_F(Generate, EndsWhenThePositionsAreFull) {
  const Generation out = *run(warm(1), 90);
  EXPECT_EQ(out.reason, StopReason::context);
  EXPECT_EQ(out.token_ids.size(), 7u);
  EXPECT_EQ(run(warm(1), 96)->token_ids.size(), 1u);
}

TEST_F(Generate, EndsWhenTheReaderHasEnough) {
  cancel_at_ = 5;
  const Generation out = *run(warm(2));
  EXPECT_EQ(out.reason, StopReason::cancelled);
  EXPECT_LT(out.token_ids.size(), 40u);
  EXPECT_GE(out.text.size(), 5u);
}

TEST_F(Generate, RefusesPromptsThatCannotBeRead) {
  for (int64_t length : {0, 97}) {
    const auto out = run(warm(1), length);
    ASSERT_FALSE(out);
    EXPECT_EQ(out.error().code, ErrorCode::usage);
  }
}

}  // namespace
}  // namespace nibble
