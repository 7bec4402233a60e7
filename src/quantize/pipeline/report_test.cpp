// What quantizing records for the report, against computations of its own.
#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint/safetensors.h"
#include "core/half.h"
#include "core/random.h"
#include "core/testing.h"
#include "quantize/observe/moments.h"
#include "quantize/observe/row_sample.h"
#include "quantize/pipeline/run_error.h"
#include "quantize/pipeline/statistics_file.h"
#include "quantize/solve/clip.h"
#include "quantize/solve/round.h"

namespace nibble {
namespace {

NumberFormat format_of(const char* text) { return *parse_format(text); }

long double kurtosis_of(const std::vector<float>& values) {
  long double mean = 0, second = 0, fourth = 0;
  for (float x : values) mean += static_cast<long double>(x) / static_cast<long double>(values.size());
  for (float x : values) {
    const long double d = static_cast<long double>(x) - mean;
    second += d * d;
    fourth += d * d * d * d;
  }
  return static_cast<long double>(values.size()) * fourth / (second * second);
}

TEST(Moments, KurtosisIsThatOfTheDefinition) {
  Random random(5);
  ThreadPool pool(2);
  for (const float mean : {0.0f, 3.0f, 5000.0f})
    for (const int64_t samples : {1, 7}) {
      Moments moments;
      std::vector<float> all;
      for (int64_t sample = 0; sample < samples; ++sample) {
        const int64_t length = 37, width = 24;
        std::vector<float> x;
        for (int64_t i = 0; i < length * width; ++i) {
          const float spread = i % width == 3 ? 30.0f : static_cast<float>(sample + 1);
          x.push_back(mean + spread * random.normal() + (i % width == 5 ? 10.0f : 0.0f));
        }
        observe_moments(x.data(), length, width, moments, pool);
        all.insert(all.end(), x.begin(), x.end());
      }
      EXPECT_EQ(moments.count, static_cast<double>(all.size()));
      const auto expected = static_cast<double>(kurtosis_of(all));
      EXPECT_NEAR(moments.kurtosis().value_or(0), expected, 1e-9 * expected) << mean << " " << samples;
    }
}

TEST(Moments, KnownDistributions) {
  EXPECT_DOUBLE_EQ(moments_of(std::vector<float>{-1, 1, -1, 1}).kurtosis().value_or(0), 1);  // two equal points
  EXPECT_DOUBLE_EQ(moments_of(std::vector<float>{0, 0, 0, 0, 0, 0, 0, 0, 0, 5}).kurtosis().value_or(0), 73.0 / 9);
  EXPECT_FALSE(moments_of(std::vector<float>(20, 2.5f)).kurtosis());
  EXPECT_FALSE(Moments().kurtosis());
}

TEST(Moments, DoNotDependOnThreads) {
  Random random(6);
  std::vector<float> x(200 * 48);
  for (float& value : x) value = random.normal();
  Moments one, four;
  ThreadPool single(1), several(4);
  observe_moments(x.data(), 200, 48, one, single);
  observe_moments(x.data(), 200, 48, four, several);
  EXPECT_EQ(one.m4, four.m4);
  EXPECT_EQ(one.m3, four.m3);
  EXPECT_EQ(one.m2, four.m2);
  EXPECT_EQ(one.mean, four.mean);
}

TEST(RowSample, TakesRowsAtEqualDistancesWhateverTheChunks) {
  for (const int64_t tokens : {1, 100, 256, 257, 1000, 5000})
    for (const int64_t chunk : {1, 40, 4096}) {
      RowSample sample(tokens, 2);
      std::vector<float> x;
      for (int64_t t = 0; t < tokens; ++t) x.insert(x.end(), {static_cast<float>(t), static_cast<float>(-t)});
      for (int64_t t = 0; t < tokens; t += chunk) sample.add(x.data() + 2 * t, std::min(chunk, tokens - t));
      ASSERT_EQ(sample.rows(), std::min<int64_t>(tokens, 256));
      for (int64_t i = 0; i < sample.rows(); ++i) {
        EXPECT_EQ(sample.row(i)[0], static_cast<float>(i * tokens / sample.rows()));
        EXPECT_EQ(sample.row(i)[1], -sample.row(i)[0]);
      }
    }
}

// A layer in float and quantized, and rows to try them on.
struct Trial {
  FloatLayer layer;
  LinearWeight solved;
  RowSample rows;

  RunError measure() const {
    ThreadPool pool(2);
    Bytes values(layer.values.size() * sizeof(float));
    write_floats(layer.values, Levels::f32, values.data());
    const auto original = PackedLinear::pack(
        float_linear(layer.rows, layer.columns, Levels::f32, std::move(values), layer.bias), *selected_isa(), pool);
    const auto packed = PackedLinear::pack(solved, *selected_isa(), pool);
    return run_error(*original, *packed, layer.bias, rows, *selected_isa(), pool);
  }
};

Trial random_trial(const char* weights, const char* activations, std::vector<int32_t> kept, bool bias) {
  Random random(8);
  ThreadPool pool(1);
  Trial trial;
  trial.layer = {"test", 10, 48, {}, {}};
  for (int i = 0; i < 10 * 48; ++i) trial.layer.values.push_back(random.normal());
  for (int i = 0; bias && i < 10; ++i) trial.layer.bias.push_back(100 * random.normal());
  trial.solved = *round_to_nearest(trial.layer, {format_of(weights), format_of(activations), kept, false}, {}, pool);
  trial.rows = RowSample(100, 48);
  for (int64_t t = 0; t < 100; ++t) {
    std::vector<float> x(48);
    for (float& value : x) value = random.normal();
    for (int32_t k : kept) x[static_cast<size_t>(k)] *= 50;
    trial.rows.add(x.data(), 1);
  }
  return trial;
}

// The sums in float64 from decoded weights, with activations rounded as the grid says.
RunError oracle(const Trial& trial) {
  const LinearWeight& solved = trial.solved;
  double original = 0, quantized = 0, product = 0, difference = 0;
  const auto dense = dense_columns_of(solved.columns, solved.kept_columns);
  for (int64_t m = 0; m < trial.rows.rows(); ++m) {
    const std::vector<float> x(trial.rows.row(m), trial.rows.row(m) + solved.columns);
    std::vector<float> rounded = x, part;
    if (solved.activations.is_integer()) {
      for (int32_t k : dense) part.push_back(x[static_cast<size_t>(k)]);
      const Grid grid = fit_grid(range_of(part), solved.activations.bits, solved.activations.offset);
      for (int32_t k : dense) rounded[static_cast<size_t>(k)] = grid.round(x[static_cast<size_t>(k)]);
    }
    for (int64_t n = 0; n < solved.rows; ++n) {
      std::vector<float> w(x.size());
      decode_row(solved, n, w);
      double y = 0, approximate = 0;
      for (size_t k = 0; k < w.size(); ++k) {
        y += static_cast<double>(trial.layer.row(n)[k]) * static_cast<double>(x[k]);
        approximate += static_cast<double>(w[k]) * static_cast<double>(rounded[k]);
      }
      original += y * y;
      quantized += approximate * approximate;
      product += y * approximate;
      difference += (y - approximate) * (y - approximate);
    }
  }
  return {difference / original, product / std::sqrt(original * quantized)};
}

TEST(RunErrorOfALayer, IsThatOfItsDefinition) {
  for (const char* activations : {"f32", "int8:token:asym", "int4:token:asym"})
    for (const char* weights : {"int4:row", "int4:g16", "int8:row"})
      for (const bool bias : {false, true})
        for (const std::vector<int32_t>& kept : {std::vector<int32_t>{}, {3, 17}}) {
          if (std::string_view(weights) == "int4:g16" && std::string_view(activations) != "f32") continue;
          const Trial trial = random_trial(weights, activations, kept, bias);
          const RunError found = trial.measure(), expected = oracle(trial);
          ASSERT_TRUE(found.error && found.cosine);
          EXPECT_NEAR(*found.error, *expected.error, 1e-3 * *expected.error) << weights << " " << activations;
          EXPECT_NEAR(*found.cosine, *expected.cosine, 1e-6);
          EXPECT_GT(*found.error, 0);
        }
}

TEST(RunErrorOfALayer, IsZeroWhereEverythingIsRepresentable) {
  Random random(4);
  ThreadPool pool(1);
  Trial trial;
  trial.layer = {"exact", 6, 32, {}, {}};
  for (int i = 0; i < 6 * 32; ++i)
    trial.layer.values.push_back(i % 32 == 0 ? 7.0f : static_cast<float>(random.below(15)) - 7);
  trial.solved =
      *round_to_nearest(trial.layer, {format_of("int4:row"), format_of("int8:token:asym"), {}, false}, {}, pool);
  trial.rows = RowSample(50, 32);
  for (int t = 0; t < 50; ++t) {
    std::vector<float> x(32);
    for (float& value : x) value = static_cast<float>(random.below(256)) - 100;
    x[3] = -100;
    x[9] = 155;  // a range of 255 steps of one
    trial.rows.add(x.data(), 1);
  }
  const RunError found = trial.measure();
  EXPECT_EQ(found.error, 0.0);
  EXPECT_DOUBLE_EQ(found.cosine.value_or(0), 1);
}

TEST(RunErrorOfALayer, IsNotMeasuredOnASilentInput) {
  Trial trial = random_trial("int4:row", "int8:token:asym", {}, true);
  trial.rows = RowSample(10, 48);
  trial.rows.add(std::vector<float>(480, 0.0f).data(), 10);
  const RunError found = trial.measure();
  EXPECT_FALSE(found.error);
  EXPECT_FALSE(found.cosine);
}

// A layer with the given scales, one row after the other.
LinearWeight with_scales(const FloatLayer& layer, const char* format, std::vector<float> scales,
                         std::vector<int32_t> kept = {}) {
  LinearWeight weight = empty_layer(layer, {format_of(format), {}, std::move(kept), false});
  weight.scales = std::move(scales);
  return weight;
}

TEST(ClipRatio, HandCases) {
  ThreadPool pool(2);
  const FloatLayer layer{"test", 2, 4, {7, -3, 0, 1, -14, 2, 2, 2}, {}};
  // Symmetric: without clipping the scales are 1 and 2, whichever side the largest weight is on.
  ClipRatios ratios = clip_ratios(layer, with_scales(layer, "int4:row", {1, 2}), pool);
  EXPECT_EQ(ratios.mean, 1);
  EXPECT_EQ(ratios.least, 1);
  ratios = clip_ratios(layer, with_scales(layer, "int4:row", {0.75f, 1}), pool);
  EXPECT_EQ(ratios.mean, (0.75 + 0.5) / 2);
  EXPECT_EQ(ratios.least, 0.5);
  // Room to spare is no clipping.
  ratios = clip_ratios(layer, with_scales(layer, "int4:row", {5, 1}), pool);
  EXPECT_EQ(ratios.mean, 0.75);
  // Kept columns are no business of the grid: without the first, the largest are 3 and 2.
  ratios = clip_ratios(layer, with_scales(layer, "int4:row", {3.0f / 7, 1.0f / 7}, {0}), pool);
  EXPECT_EQ(ratios.mean, 0.75);
  // Groups: 7, 1, 14, 2.
  ratios = clip_ratios(layer, with_scales(layer, "int4:g2", {1, 1.0f / 14, 2, round_scale(2.0f / 7, ScaleCodec::f16)}),
                       pool);
  EXPECT_NEAR(ratios.mean, 0.875, 1e-4);
  EXPECT_NEAR(ratios.least, 0.5, 1e-3);
  // Asymmetric: from -3 to 7 in 15 steps, and from -14 to 2.
  ratios = clip_ratios(layer, with_scales(layer, "int4:row:asym", {10.0f / 15, 8.0f / 15}), pool);
  EXPECT_NEAR(ratios.mean, 0.75, 1e-7);
  // All zero.
  const FloatLayer zeros{"zeros", 1, 4, {0, 0, 0, 0}, {}};
  EXPECT_EQ(clip_ratios(zeros, with_scales(zeros, "int4:row", {0.01f}), pool).least, 1);
}

TEST(ClipRatio, IsTheRangeThatTheSearchChose) {
  Random random(12);
  ThreadPool pool(2);
  for (const char* format : {"int4:row", "int4:row:asym", "int4:g16", "int4:g16:asym", "int8:row"}) {
    FloatLayer layer{"test", 5, 64, {}, {}};
    for (int i = 0; i < 5 * 64; ++i) layer.values.push_back(random.normal() * (i % 64 == 7 ? 6.0f : 1.0f));
    const LayerForm form{format_of(format), {}, {}, false};
    const auto plain = *round_to_nearest(layer, form, {}, pool);
    EXPECT_EQ(clip_ratios(layer, plain, pool).least, 1) << format;
    const auto clipped = *round_to_nearest(layer, form, {60, 2}, pool);
    const ClipRatios ratios = clip_ratios(layer, clipped, pool);
    double sum = 0, least = 1;
    for (size_t i = 0; i < plain.scales.size(); ++i) {
      const double ratio = static_cast<double>(clipped.scales[i]) / static_cast<double>(plain.scales[i]);
      sum += ratio;
      least = std::min(least, ratio);
    }
    EXPECT_NEAR(ratios.mean, sum / static_cast<double>(plain.scales.size()), 1e-12) << format;
    EXPECT_EQ(ratios.least, least) << format;
  }
}

TEST(StatisticsFile, IsReadAsItWasWritten) {
  testing::TemporaryFolder folder;
  ASSERT_TRUE(read_statistics(folder.path())->empty());
  SitePlan a, b, c;
  a.name = "blocks.0.qkv", a.inputs = 3;
  b.name = "blocks.0.down", b.inputs = 2;
  c.name = "blocks.1.qkv", c.inputs = 3;
  ASSERT_TRUE(write_statistics_piece(folder.path(), 0, std::vector<float>{1, 2, 3, 4, 5}));
  ASSERT_TRUE(write_statistics_piece(folder.path(), 1, std::vector<float>{6, 7, 1e-40f}));
  ASSERT_TRUE(join_statistics(folder.path(), {{a, b}, {c}}));
  const auto found = read_statistics(folder.path());
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->size(), 3u);
  EXPECT_EQ(found->at("blocks.0.qkv"), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(found->at("blocks.0.down"), (std::vector<float>{4, 5}));
  EXPECT_EQ(found->at("blocks.1.qkv"), (std::vector<float>{6, 7, 1e-40f}));
  testing::expect_error(join_statistics(folder.path(), {{a}, {c}}), ErrorCode::corrupt, "statistics.0.f32 has 20 bytes",
                        "expected 12");
  testing::put(folder / kStatisticsName, "damaged");
  testing::expect_error(read_statistics(folder.path()), ErrorCode::corrupt, kStatisticsName);
}

}  // namespace
}  // namespace nibble
