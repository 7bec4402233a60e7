// The per-layer report of models that were quantized here, from their folders alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/manifest.h"
#include "core/testing.h"
#include "eval/report/collect.h"
#include "model/model.h"
#include "quantize/pipeline/statistics_file.h"
#include "quantize/quantize.h"
#include "tiny_model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class Report : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(testing::write_tiny_model(folder_ / "model"));
    std::string text;
    Random random(3);
    for (int i = 0; i < 4000; ++i) text += static_cast<char>('a' + random.below(26));
    testing::put(folder_ / "text.txt", text);
  }

  // A quantized version of the model.
  fs::path quantized(const std::string& recipe, const std::string& name,
                     const std::vector<std::string>& overrides = {}) {
    QuantizeOptions options;
    options.model = folder_ / "model";
    options.output = folder_ / name;
    options.recipe = *load_recipe(recipe);
    if (!overrides.empty()) options.recipe = *customise(options.recipe, {}, overrides);
    options.calibration = {folder_ / "text.txt"};
    options.samples = 8;
    options.length = 48;
    const auto report = quantize(options, pool_);
    EXPECT_TRUE(report) << report.error().message;
    if (report) recorded_ = *report;
    return options.output;
  }

  Result<LayerReport> collect(const fs::path& model, const fs::path& reference = {}) {
    return collect_report(model, reference, pool_);
  }

  testing::TemporaryFolder folder_;
  ThreadPool pool_{2};
  QuantizeReport recorded_;  // of the last quantized()
};

const LayerRow& row_named(const LayerReport& report, std::string_view name) {
  for (const LayerRow& row : report.linears)
    if (row.name == name) return row;
  ADD_FAILURE() << "no row " << name;
  return report.linears.front();
}

// |W - W'|^2 / |W|^2 of one linear, from the tensors.
double weight_error_of(const fs::path& original, const fs::path& changed, int64_t block, Role role) {
  const BlockWeights a = *(*open_model(original))->block(block), b = *(*open_model(changed))->block(block);
  std::vector<float> x(static_cast<size_t>(a[role].columns)), y = x;
  double difference = 0, whole = 0;
  for (int64_t n = 0; n < a[role].rows; ++n) {
    decode_row(a[role], n, x);
    decode_row(b[role], n, y);
    for (size_t k = 0; k < x.size(); ++k) {
      difference += std::pow(static_cast<double>(x[k]) - static_cast<double>(y[k]), 2);
      whole += std::pow(static_cast<double>(x[k]), 2);
    }
  }
  return difference / whole;
}

TEST_F(Report, HoldsWhatQuantizingRecorded) {
  const fs::path out = quantized("quik-4b", "quik");
  const auto report = collect(out);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->model, "quik");
  EXPECT_EQ(report->reference, "");
  EXPECT_EQ(report->recipe, "quik-4b");
  EXPECT_EQ(report->family, "llama");
  EXPECT_EQ(report->tool.substr(0, 7), "nibble ");
  EXPECT_EQ(report->blocks, 2);
  EXPECT_DOUBLE_EQ(report->bits_per_weight, recorded_.bits_per_weight);
  EXPECT_DOUBLE_EQ(report->quantized_bits_per_weight, recorded_.quantized_bits_per_weight);
  EXPECT_EQ(report->file_bytes, recorded_.file_bytes);
  ASSERT_EQ(report->linears.size(), recorded_.linears.size());
  for (size_t i = 0; i < report->linears.size(); ++i) {
    const LayerRow& row = report->linears[i];
    const LinearReport& expected = recorded_.linears[i];
    EXPECT_EQ(row.name, expected.name);
    EXPECT_EQ(row.name, fmt::format("blocks.{}.{}", row.block, row.role));
    EXPECT_EQ(row.weights, expected.weights);
    EXPECT_EQ(row.activations, expected.activations);
    EXPECT_EQ(row.kept, expected.kept);
    EXPECT_EQ(row.stored_bytes, expected.stored_bytes);
    EXPECT_DOUBLE_EQ(row.bits_per_weight, 8.0 * static_cast<double>(expected.stored_bytes) /
                                              static_cast<double>(expected.rows * expected.columns));
    EXPECT_DOUBLE_EQ(row.weight_error.value_or(-1), expected.weight_error);
    EXPECT_EQ(row.output_error, expected.run_error);
    EXPECT_EQ(row.output_cosine, expected.run_cosine);
    EXPECT_EQ(row.solver_error, expected.output_error);
    EXPECT_EQ(row.rounding_solver_error, expected.rounding_output_error);
    EXPECT_EQ(row.clip_mean, expected.clip_mean);
    EXPECT_EQ(row.clip_least, expected.clip_least);
    // Activations cost something besides the weights.
    EXPECT_GT(*row.output_error, *row.solver_error) << row.name;
  }
  ASSERT_EQ(report->sites.size(), 8u);
  for (const SiteRow& site : report->sites) {
    EXPECT_EQ(site.name, fmt::format("blocks.{}.{}", site.block, site.site));
    ASSERT_EQ(static_cast<int64_t>(site.absmax.size()), site.inputs);
    EXPECT_EQ(site.maximum, *std::max_element(site.absmax.begin(), site.absmax.end()));
    EXPECT_GT(site.kurtosis.value_or(0), 1);
    // The kept channels are the loudest.
    std::vector<float> sorted = site.absmax;
    std::sort(sorted.begin(), sorted.end());
    ASSERT_FALSE(site.kept.empty()) << site.name;
    for (int32_t k : site.kept)
      EXPECT_GE(site.absmax[static_cast<size_t>(k)], sorted[sorted.size() - site.kept.size()]) << site.name;
  }
}

TEST_F(Report, AReferenceGivesTheErrorsOfTheTensors) {
  const fs::path out = quantized("quik-4b", "quik", {R"(blocks\.0\.o=f16)"});
  const auto report = collect(out, folder_ / "model");
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->reference, "model");
  for (const LayerRow& row : report->linears) {
    const double expected = weight_error_of(folder_ / "model", out, row.block, *role_named(row.role));
    EXPECT_NEAR(row.weight_error.value_or(-1), expected, 1e-9 * expected) << row.name;
  }
  // What is stored as floats is a row all the same.
  const LayerRow& plain = row_named(*report, "blocks.0.o");
  EXPECT_EQ(plain.weights, "f16");
  EXPECT_EQ(plain.bits_per_weight, 16);
  EXPECT_EQ(plain.weight_error, 0.0);
  EXPECT_FALSE(plain.output_error);
  EXPECT_FALSE(plain.clip_mean);
}

TEST_F(Report, FoldersWithoutAManifestAreReported) {
  const fs::path out = quantized("rtn-w4a16-g128", "rtn"), back = folder_ / "back";
  const auto source = open_model(out);
  ASSERT_TRUE(write_checkpoint(**source, back, Levels::f32));
  const auto report = collect(back, folder_ / "model"), expected = collect(out);
  ASSERT_TRUE(report) << report.error().message;
  ASSERT_TRUE(expected) << expected.error().message;
  EXPECT_EQ(report->recipe, "");
  EXPECT_EQ(report->tool, "");
  EXPECT_EQ(report->bits_per_weight, 32);
  for (size_t i = 0; i < report->linears.size(); ++i) {
    EXPECT_EQ(report->linears[i].weights, "f32");
    EXPECT_NEAR(report->linears[i].weight_error.value_or(-1), *expected->linears[i].weight_error, 1e-12);
    EXPECT_FALSE(report->linears[i].output_error);
  }
  for (const SiteRow& site : report->sites) {
    EXPECT_TRUE(site.absmax.empty());
    EXPECT_FALSE(site.maximum || site.kurtosis);
  }
  const auto alone = collect(back);
  ASSERT_TRUE(alone) << alone.error().message;
  EXPECT_FALSE(alone->linears[0].weight_error);
}

TEST_F(Report, TheModelItselfHasNoError) {
  const auto report = collect(folder_ / "model", folder_ / "model");
  ASSERT_TRUE(report) << report.error().message;
  for (const LayerRow& row : report->linears) EXPECT_EQ(row.weight_error, 0.0) << row.name;
}

TEST_F(Report, AnotherModelIsNoReference) {
  testing::TinyShape shape;
  shape.ffn = 96;
  ASSERT_TRUE(testing::write_tiny_model(folder_ / "other", shape));
  testing::expect_error(collect(folder_ / "model", folder_ / "other"), ErrorCode::corrupt, "\"ffn\" is 128",
                        "the reference's is 96");
}

TEST_F(Report, WhatDoesNotBelongToTheModelIsCorrupt) {
  const fs::path out = quantized("quik-4b", "quik");
  Json manifest = *read_manifest(out);
  const Json whole = manifest;
  manifest["linears"][3]["rows"] = 7;
  testing::put(out / kManifestName, dump_json(manifest));
  testing::expect_error(collect(out), ErrorCode::corrupt, kManifestName, "blocks.0.o", "[7, 64]");
  manifest = whole;
  manifest["sites"][0]["maximum"] = "loud";
  testing::put(out / kManifestName, dump_json(manifest));
  testing::expect_error(collect(out), ErrorCode::corrupt, "\"maximum\"");
  manifest = whole;
  manifest["linears"] = 3;
  testing::put(out / kManifestName, dump_json(manifest));
  testing::expect_error(collect(out), ErrorCode::corrupt, "\"linears\" is not a list");
  testing::put(out / kManifestName, dump_json(whole));
  const std::vector<float> values(3, 1.0f);
  ASSERT_TRUE(write_safetensors(out / kStatisticsName,
                                {{"blocks.0.qkv.absmax", DType::f32, {3}, std::as_bytes(std::span(values))}}));
  testing::expect_error(collect(out), ErrorCode::corrupt, "blocks.0.qkv", "has 3 channels, the model 64");
  fs::remove(out / kStatisticsName);
  const auto without = collect(out);
  ASSERT_TRUE(without) << without.error().message;
  EXPECT_TRUE(without->sites[0].absmax.empty());
  EXPECT_TRUE(without->sites[0].maximum);
}

TEST_F(Report, ItsJsonHasEveryFigure) {
  const auto report = collect(quantized("quik-4b", "quik"), folder_ / "model");
  ASSERT_TRUE(report) << report.error().message;
  LayerReport whole = *report;
  whole.protocol = "windows of 32";
  whole.divergence = Divergence();
  whole.divergence->tokens = 2;
  whole.divergence->mean_kl = {0.5, 0.25};
  whole.divergence->kl = {0.25f, 0.75f};
  const Json json = to_json(whole);
  EXPECT_EQ(json["linears"].size(), 14u);
  EXPECT_EQ(json["linears"][6]["role"], "down");
  EXPECT_EQ(json["linears"][6]["weight_error"], *whole.linears[6].weight_error);
  EXPECT_EQ(json["sites"][0]["absmax"].size(), 64u);
  EXPECT_EQ(json["sites"][0]["kept_columns"].get<std::vector<int32_t>>(), whole.sites[0].kept);
  EXPECT_EQ(json["divergence"]["mean_kl"]["standard_error"], 0.25);
  EXPECT_EQ(json["divergence"]["kl"], Json({0.25, 0.75}));
  EXPECT_EQ(json["divergence"]["protocol"], "windows of 32");
  const Json bare = to_json(*collect(folder_ / "model"));
  EXPECT_TRUE(bare["reference"].is_null() && bare["divergence"].is_null() && bare["recipe"].is_null());
  EXPECT_TRUE(bare["linears"][0]["weight_error"].is_null());
  EXPECT_TRUE(bare["sites"][0]["absmax"].is_null());
}

}  // namespace
}  // namespace nibble
