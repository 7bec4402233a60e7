#include <gtest/gtest.h>
#include <nibble/nibble.h>
#include <nibble/nibble_c.h>

#include <cstdlib>
#include <thread>

#include "api/guard.h"
#include "api/threads.h"

namespace nibble {
namespace {

template <class Thrown>
ErrorCode code_after(Thrown thrown) {
  return guarded([&]() -> Status { throw thrown; }).error().code;
}

TEST(Guard, ExceptionsBecomeErrors) {
  EXPECT_TRUE(guarded([]() -> Status { return {}; }));
  EXPECT_EQ(code_after(std::bad_alloc()), ErrorCode::resources);
  EXPECT_EQ(code_after(std::length_error("vector")), ErrorCode::resources);
  EXPECT_EQ(code_after(std::system_error(EAGAIN, std::generic_category())), ErrorCode::resources);
  EXPECT_EQ(code_after(std::system_error(ENOSPC, std::generic_category())), ErrorCode::resources);
  EXPECT_EQ(code_after(std::system_error(EACCES, std::generic_category())), ErrorCode::io);
  EXPECT_EQ(code_after(std::runtime_error("x")), ErrorCode::failure);
  EXPECT_EQ(code_after(1), ErrorCode::failure);
}

TEST(Threads, OptionThenEnvironmentThenProcessors) {
  ::setenv("NIBBLE_THREADS", "3", 1);
  EXPECT_EQ(thread_count(0), 3);
  EXPECT_EQ(thread_count(2), 2);
  for (const char* wrong : {"0", "-1", "2x", "many", "1025", "99999999999"}) {
    ::setenv("NIBBLE_THREADS", wrong, 1);
    ASSERT_FALSE(thread_count(0)) << wrong;
    EXPECT_EQ(thread_count(0).error().code, ErrorCode::usage);
    EXPECT_NE(thread_count(0).error().message.find("NIBBLE_THREADS"), std::string::npos);
  }
  ::unsetenv("NIBBLE_THREADS");
  EXPECT_GE(thread_count(0).value(), 1);
  EXPECT_FALSE(thread_count(-1));
}

TEST(Api, RecipesShowWhatTheyAre) {
  const auto list = recipes();
  ASSERT_TRUE(list) << list.error().message;
  for (const RecipeInfo& recipe : *list) {
    EXPECT_FALSE(recipe.summary.empty()) << recipe.name;
    EXPECT_TRUE(recipe_text(recipe.name)) << recipe.name;
  }
  EXPECT_EQ(recipe_text("no-such-recipe").error().code, ErrorCode::usage);
}

TEST(Api, RequestsAreCheckedFirst) {
  QuantizeRequest request;
  EXPECT_EQ(quantize(request).error().code, ErrorCode::usage);
  request.model = "/nowhere";
  request.output = "/nowhere/out";
  request.recipe = "rtn-w8a8";
  request.samples = 0;
  EXPECT_EQ(quantize(request).error().code, ErrorCode::usage);
  request.samples = 1;
  EXPECT_EQ(quantize(request).error().code, ErrorCode::io);
  EXPECT_EQ(estimate(request).error().code, ErrorCode::io);
}

// One include brings all of them.
TEST(Api, RequestsWithoutModelsAreErrors) {
  EXPECT_EQ(report(ReportRequest{}).error().code, ErrorCode::usage);
  EXPECT_EQ(compare(CompareRequest{}).error().code, ErrorCode::io);
  EXPECT_FALSE(verify(VerifyRequest{}));
  EXPECT_EQ(check_evaluation(EvaluateRequest{}).error().code, ErrorCode::io);
  EXPECT_EQ(inspect("").error().code, ErrorCode::io);
}

TEST(CApi, NullArgumentsAreUsageErrors) {
  nibble_model* model = reinterpret_cast<nibble_model*>(1);
  EXPECT_EQ(nibble_load(nullptr, nullptr, &model), NIBBLE_USAGE);
  EXPECT_EQ(model, nullptr);
  EXPECT_STREQ(nibble_last_error(), "argument \"folder\" is null");
  EXPECT_EQ(nibble_load("x", nullptr, nullptr), NIBBLE_USAGE);
  nibble_generation generation;
  EXPECT_EQ(nibble_generate(nullptr, "x", nullptr, &generation), NIBBLE_USAGE);
  EXPECT_EQ(generation.text, nullptr);
  nibble_perplexity_result result;
  EXPECT_EQ(nibble_perplexity(nullptr, "x", 1, 0, &result), NIBBLE_USAGE);
  EXPECT_EQ(nibble_quantize(nullptr, nullptr), NIBBLE_USAGE);
  nibble_free(nullptr);
  nibble_generation_free(nullptr);
}

TEST(CApi, OptionsKnowTheirSize) {
  nibble_model* model = nullptr;
  nibble_load_options load;
  nibble_load_defaults(&load);
  EXPECT_EQ(load.size, sizeof load);
  EXPECT_EQ(nibble_load("/nowhere", &load, &model), NIBBLE_IO);
  EXPECT_NE(std::string(nibble_last_error()).find("/nowhere"), std::string::npos);
  load.size = 0;
  EXPECT_EQ(nibble_load("/nowhere", &load, &model), NIBBLE_USAGE);
  load.size = sizeof load + 8;
  EXPECT_EQ(nibble_load("/nowhere", &load, &model), NIBBLE_USAGE);
  // An older caller knows the first fields only; what lies behind them is not read.
  load.size = offsetof(nibble_load_options, cache);
  load.cache = reinterpret_cast<const char*>(1);
  EXPECT_EQ(nibble_load("/nowhere", &load, &model), NIBBLE_IO);
  nibble_load_defaults(&load);
  load.cache = "f12";
  EXPECT_EQ(nibble_load("/nowhere", &load, &model), NIBBLE_USAGE);
}

TEST(CApi, QuantizeChecksItsLists) {
  nibble_quantize_options options;
  nibble_quantize_defaults(&options);
  EXPECT_EQ(options.samples, 128);
  options.model = "/nowhere";
  options.output = "/nowhere/out";
  options.recipe = "rtn-w8a8";
  EXPECT_EQ(nibble_quantize(&options, nullptr), NIBBLE_IO);
  options.calibration_count = 1;
  EXPECT_EQ(nibble_quantize(&options, nullptr), NIBBLE_USAGE);
  const char* texts[] = {nullptr};
  options.calibration = texts;
  EXPECT_EQ(nibble_quantize(&options, nullptr), NIBBLE_USAGE);
}

TEST(CApi, LastErrorIsPerThread) {
  EXPECT_EQ(nibble_quantize(nullptr, nullptr), NIBBLE_USAGE);
  std::string other = "not run";
  std::thread([&] { other = nibble_last_error(); }).join();
  EXPECT_EQ(other, "");
  EXPECT_STRNE(nibble_last_error(), "");
}

TEST(CApi, VersionIsThatOfTheBuild) { EXPECT_EQ(version()->version, nibble_version()); }

}  // namespace
}  // namespace nibble
