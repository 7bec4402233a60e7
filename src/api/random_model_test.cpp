#include <gtest/gtest.h>
#include <nibble/inspect.h>
#include <nibble/random_model.h>

#include <cmath>

#include "core/hash.h"
#include "core/testing.h"

namespace nibble {
namespace {

using testing::TemporaryFolder;

RandomModelRequest tiny(const std::filesystem::path& output) {
  RandomModelRequest request;
  request.shape = "tiny";
  request.output = output;
  request.threads = 1;
  return request;
}

TEST(RandomModel, KnowsThePublishedSizes) {
  std::map<std::string, double> billions;
  for (const ShapeInfo& shape : known_model_shapes())
    billions[shape.name] = static_cast<double>(shape.parameters) / 1e9;
  EXPECT_NEAR(billions.at("llama-2-7b"), 6.738, 0.001);
  EXPECT_NEAR(billions.at("llama-3-8b"), 8.030, 0.001);
  EXPECT_NEAR(billions.at("tinyllama-1.1b"), 1.100, 0.001);
  EXPECT_NEAR(billions.at("opt-6.7b"), 6.658, 0.001);
  EXPECT_NEAR(billions.at("falcon-7b"), 6.922, 0.001);
}

TEST(RandomModel, LoadsGeneratesAndCoversItsVocabulary) {
  TemporaryFolder folder;
  RandomModelRequest request = tiny(folder / "out");
  request.layers = 3;
  request.type = FloatType::f32;
  const auto made = make_random_model(request);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(made->layers, 3);
  auto model = LanguageModel::load(folder / "out");
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->layers(), 3);
  const TextTokenizer& tokenizer = model->tokenizer();
  EXPECT_EQ(tokenizer.vocabulary_size(), model->vocabulary());
  for (int32_t id = 0; id < model->vocabulary(); ++id) EXPECT_TRUE(tokenizer.piece(id)) << id;
  const std::string text = "Any text\n\t\xC3\xA9 \xF0\x9F\x99\x82!";
  EXPECT_EQ(tokenizer.decode(*tokenizer.encode(text)), text);
  GenerateOptions options;
  options.max_tokens = 4;
  options.ignore_eos = true;
  const auto said = model->generate("Hello", options);
  ASSERT_TRUE(said) << said.error().message;
  EXPECT_EQ(said->token_ids.size(), 4u);
}

TEST(RandomModel, BytesDependOnTheSeedAndNotOnThreads) {
  TemporaryFolder folder;
  const auto hash = [&](const char* name, uint64_t seed, int threads) {
    RandomModelRequest request = tiny(folder / name);
    request.seed = seed;
    request.threads = threads;
    EXPECT_TRUE(make_random_model(request));
    return *sha256_file(request.output / "model.safetensors");
  };
  const std::string one = hash("a", 1, 1);
  EXPECT_EQ(hash("b", 1, 3), one);
  EXPECT_NE(hash("c", 2, 1), one);
}

TEST(RandomModel, ShardsAndRefusals) {
  TemporaryFolder folder;
  RandomModelRequest request = tiny(folder / "out");
  request.shard_bytes = 1;
  const auto made = make_random_model(request);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(made->shards, 3);  // the globals and two blocks
  const auto inspection = inspect(request.output);
  ASSERT_TRUE(inspection) << inspection.error().message;
  EXPECT_EQ(inspection->parameters, made->parameters);
  EXPECT_EQ(make_random_model(request).error().code, ErrorCode::usage);  // it exists
  request.shape = "gpt-5";
  EXPECT_NE(make_random_model(request).error().message.find("llama-2-7b"), std::string::npos);
}

}  // namespace
}  // namespace nibble
