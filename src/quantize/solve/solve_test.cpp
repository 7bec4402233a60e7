// Clipping, rounding, splitting, statistics and errors.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/half.h"
#include "core/random.h"
#include "quantize/observe/statistics.h"
#include "quantize/solve/error.h"
#include "quantize/solve/round.h"
#include "quantize/solve/split.h"

namespace nibble {
namespace {

NumberFormat format_of(const char* text) { return *parse_format(text); }

std::vector<float> normal_row(Random& random, size_t count, float spike) {
  std::vector<float> row(count);
  for (float& value : row) value = random.normal();
  row[count / 2] *= spike;
  return row;
}

// The specification in double precision: best p and its cost.
std::pair<double, double> clip_oracle(const std::vector<float>& row, int bits, double norm) {
  const int most = (1 << (bits - 1)) - 1;
  double absmax = 0, least = std::numeric_limits<double>::infinity(), best = 1;
  for (float v : row) absmax = std::max(absmax, std::fabs(static_cast<double>(v)));
  for (int i = 0; i < 80; ++i) {
    const double p = 1 - i / 100.0, scale = p * absmax / most;
    double cost = 0;
    for (float v : row) {
      double level = std::nearbyint(static_cast<double>(v) / scale);
      level = std::min(std::max(level, -most - 1.0), static_cast<double>(most));
      cost += std::pow(std::fabs(level * scale - static_cast<double>(v)), norm);
    }
    if (cost < least) least = cost, best = p;
  }
  return {best, least};
}

TEST(Clip, FindsTheOraclesRange) {
  Random random(11);
  for (int bits : {3, 4, 8})
    for (int trial = 0; trial < 40; ++trial) {
      const auto row = normal_row(random, 60 + static_cast<size_t>(trial), trial % 2 ? 6 : 1);
      const NumberFormat format = format_of(bits == 3 ? "int3:row" : bits == 4 ? "int4:row" : "int8:row");
      const Grid grid = choose_grid(row, format, {80, 2.4});
      const auto [p, cost] = clip_oracle(row, bits, 2.4);
      const Range range = range_of(row);
      const double absmax = std::max(-range.least, range.greatest);
      EXPECT_NEAR(grid.scale, p * absmax / ((1 << (bits - 1)) - 1), 1e-6 * grid.scale);
      EXPECT_NEAR(rounding_cost(row, grid, 2.4, std::numeric_limits<double>::infinity()), cost, 1e-4 * cost);
    }
}

TEST(Clip, TheLargestRangeWinsTies) {
  // Every p gives the same error on zeros: the first is taken.
  const std::vector<float> zeros(8, 0.0f);
  EXPECT_EQ(choose_grid(zeros, format_of("int4:row"), {80, 2.4}).scale, symmetric_grid(0, 4).scale);
}

TEST(Clip, WithoutItTheRangeIsTheLargestValue) {
  const std::vector<float> row = {0.5f, -3.5f, 1};
  EXPECT_EQ(choose_grid(row, format_of("int4:row"), {}).scale, 0.5f);
  const Grid asymmetric = choose_grid(row, format_of("int4:row:asym"), {});
  EXPECT_FLOAT_EQ(asymmetric.scale, 4.5f / 15);
  EXPECT_EQ(asymmetric.offset, 12);
}

TEST(Clip, ScalesAreWhatIsStored) {
  Random random(3);
  for (float size : {1e-12f, 1e-3f, 1.0f, 1e5f, 1e9f})
    for (const char* text : {"int4:g16", "int4:g16:asym"}) {
      std::vector<float> row = normal_row(random, 16, 1);
      for (float& value : row) value *= size;
      const Grid grid = choose_grid(row, format_of(text), {20, 2});
      EXPECT_EQ(grid.scale, f16_to_f32(f32_to_f16(grid.scale)));
      EXPECT_GT(grid.scale, 0);
      EXPECT_TRUE(grid.offset >= 0 && grid.offset <= 15);
    }
}

TEST(Clip, ReadsItsParameters) {
  const auto read = [](const char* text) {
    static Json value;
    value = *parse_json(text, "test");
    auto reader = *JsonReader::open(value, "step", ErrorCode::usage);
    return read_clip(reader, false);
  };
  EXPECT_EQ(read("{}")->steps, 1);
  EXPECT_EQ(read(R"({"clip": null})")->steps, 1);
  EXPECT_EQ(read(R"({"clip": {}})")->steps, 80);
  EXPECT_EQ(read(R"({"clip": {"steps": 20, "norm": 2}})")->norm, 2);
  EXPECT_FALSE(read(R"({"clip": {"steps": 100}})"));
  EXPECT_FALSE(read(R"({"clip": {"grid": 100}})"));
  EXPECT_FALSE(read(R"({"clip": 80})"));
}

FloatLayer random_layer(int64_t rows, int64_t columns, uint64_t seed) {
  Random random(seed);
  FloatLayer layer{"test", rows, columns, {}, {}};
  for (int64_t i = 0; i < rows * columns; ++i) layer.values.push_back(random.normal());
  return layer;
}

TEST(Round, TakesTheNearestLevel) {
  ThreadPool pool(2);
  const FloatLayer layer = random_layer(7, 50, 4);
  for (const char* text : {"int4:row", "int8:row", "int4:g16", "int3:g12:asym", "int2:row", "int5:g7"}) {
    const LayerForm form{format_of(text), format_of("f32"), {3, 10, 49}, false};
    const auto solved = round_to_nearest(layer, form, {}, pool);
    ASSERT_TRUE(solved && solved->validate("test")) << text;
    std::vector<float> row(50);
    const auto dense = dense_columns_of(50, form.kept);
    const int64_t size = form.weights.group_size(47);
    for (int64_t n = 0; n < 7; ++n) {
      decode_row(*solved, n, row);
      for (size_t i = 0; i < dense.size(); ++i) {
        const auto k = static_cast<size_t>(dense[i]);
        const Grid grid = solved->grid(n, static_cast<int64_t>(i) / size);
        float nearest = grid.decode(0);
        for (int32_t code = 1; code <= grid.most; ++code)
          if (std::fabs(grid.decode(code) - layer.row(n)[k]) < std::fabs(nearest - layer.row(n)[k]))
            nearest = grid.decode(code);
        EXPECT_NEAR(std::fabs(row[k] - layer.row(n)[k]), std::fabs(nearest - layer.row(n)[k]), 1e-5);
      }
      for (int32_t k : form.kept) EXPECT_NEAR(row[static_cast<size_t>(k)], layer.row(n)[static_cast<size_t>(k)], 2e-3);
    }
  }
}

TEST(Round, PatternKeepsTheLargerTwoOfFour) {
  ThreadPool pool(1);
  FloatLayer layer{"test", 1, 9, {1, -4, 2, 3, 9, 5, 5, 5, 5}, {}};
  const auto solved = round_to_nearest(layer, {format_of("int4:row"), format_of("f32"), {4}, true}, {}, pool);
  ASSERT_TRUE(solved && solved->validate("test"));
  std::vector<float> row(9);
  decode_row(*solved, 0, row);
  EXPECT_EQ(row[0], 0);
  EXPECT_EQ(row[2], 0);
  EXPECT_NE(row[1], 0);
  EXPECT_NE(row[3], 0);
  EXPECT_EQ(row[4], 9);
  EXPECT_EQ(row[5], 0);  // of equals the later ones stay
  EXPECT_EQ(row[6], 0);
  EXPECT_EQ(row[7], 5);
  EXPECT_EQ(row[8], 5);
}

TEST(Round, NamesAKeptWeightThatDoesNotFit) {
  ThreadPool pool(1);
  FloatLayer layer{"blocks.1.o", 1, 3, {1, 1e6f, 2}, {}};
  const auto solved = round_to_nearest(layer, {format_of("int4:row"), format_of("f32"), {1}, false}, {}, pool);
  ASSERT_FALSE(solved);
  EXPECT_NE(solved.error().message.find("blocks.1.o"), std::string::npos);
}

TEST(Layer, NamesTheWeightThatIsNotFinite) {
  ThreadPool pool(1);
  const float values[4] = {1, 2, NAN, 4};
  Bytes bytes(sizeof values);
  std::memcpy(bytes.data(), values, sizeof values);
  const auto layer = float_layer(float_linear(2, 2, Levels::f32, bytes, {}), "blocks.0.q", pool);
  ASSERT_FALSE(layer);
  EXPECT_NE(layer.error().message.find("blocks.0.q: row 1, column 0"), std::string::npos) << layer.error().message;
}

TEST(Split, CountsColumns) {
  KeptCount fraction{0, 1, 16, 256, false, 0};
  EXPECT_EQ(kept_count(fraction, 4096, 4096, 1), 256);
  EXPECT_EQ(kept_count(fraction, 11008, 4096, 1), 256);
  EXPECT_EQ(kept_count(fraction, 256, 256, 1), 16);
  EXPECT_EQ(kept_count(fraction, 192, 192, 1), 12);
  fraction.scale_with_width = true;
  EXPECT_EQ(kept_count(fraction, 768, 256, 1), 48);
  EXPECT_EQ(kept_count(fraction, 28672, 8192, 1), 896);  // the paper's count for the 70B model
  EXPECT_EQ(kept_count(fraction, 11008, 4096, 1), 688);
  KeptCount absolute{256, 0, 1, INT64_MAX, false, 0};
  EXPECT_EQ(kept_count(absolute, 4096, 4096, 1), 256);
  absolute.columns = 10;
  EXPECT_EQ(kept_count(absolute, 768, 256, 4), 12);
  EXPECT_EQ(kept_count(absolute, 770, 256, 4), 10);
  EXPECT_EQ(kept_count({}, 767, 256, 1), 0);
}

TEST(Split, KeepsTheLoudestAndTheHigherOfEquals) {
  const std::vector<float> absmax = {5, 1, 5, 7, 5};
  EXPECT_EQ(loudest_columns(absmax, 0), (std::vector<int32_t>{}));
  EXPECT_EQ(loudest_columns(absmax, 2), (std::vector<int32_t>{3, 4}));
  EXPECT_EQ(loudest_columns(absmax, 3), (std::vector<int32_t>{2, 3, 4}));
  EXPECT_EQ(loudest_columns(absmax, 5), (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

TEST(Statistics, GramIsTheSumOfOuterProducts) {
  Random random(8);
  const int64_t width = 133, count = 300;
  std::vector<float> x(static_cast<size_t>(width * count));
  for (float& value : x) value = random.normal();
  ThreadPool pool(2);
  Gram whole(width);
  whole.add(x.data(), count, pool);
  EXPECT_EQ(whole.tokens(), count);
  for (int64_t i = 0; i < width; i += 7)
    for (int64_t j = 0; j < width; ++j) {
      double sum = 0;
      for (int64_t m = 0; m < count; ++m)
        sum += static_cast<double>(x[static_cast<size_t>(m * width + i)]) *
               static_cast<double>(x[static_cast<size_t>(m * width + j)]);
      ASSERT_NEAR(whole.at(i, j), sum, 1e-3) << i << "," << j;
    }
  for (int threads : {1, 4}) {
    ThreadPool other(threads);
    Gram again(width);
    again.add(x.data(), count, other);
    const auto a = again.sums().values().span(), b = whole.sums().values().span();
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end()));
  }
}

// By congruence it is the Gram matrix of rotated rows; kept columns stay.
TEST(Statistics, ARotatedGramIsThatOfTheRotatedInput) {
  Random random(18);
  constexpr int64_t kWidth = 77, kCount = 120;
  const std::vector<int32_t> kept = {3, 20, 21, 76}, dense = dense_columns_of(kWidth, kept);
  std::vector<float> x(kWidth * kCount), rotated;
  for (float& value : x) value = random.normal();
  rotated = x;
  for (size_t m = 0; m < kCount; ++m) {
    std::vector<float> row;
    for (int32_t column : dense) row.push_back(x[m * kWidth + static_cast<size_t>(column)]);
    rotate_dense(row, 32);
    for (size_t i = 0; i < dense.size(); ++i) rotated[m * kWidth + static_cast<size_t>(dense[i])] = row[i];
  }
  ThreadPool pool(3);
  Gram expected(kWidth);
  expected.add(rotated.data(), kCount, pool);
  SiteStatistics found;
  found.gram = Gram(kWidth);
  found.gram.add(x.data(), kCount, pool);
  found.absmax.assign(kWidth, 9);
  rotate(found, kept, 32, pool);
  for (int64_t i = 0; i < kWidth; ++i)
    for (int64_t j = 0; j < kWidth; ++j) ASSERT_NEAR(found.gram.at(i, j), expected.at(i, j), 1e-3) << i << "," << j;
  EXPECT_EQ(found.absmax[20], 9);
  EXPECT_NEAR(found.absmax[22], std::sqrt(expected.at(22, 22) / kCount), 1e-4);
}

TEST(Statistics, AbsmaxNamesTheChannelThatIsNotFinite) {
  ThreadPool pool(2);
  std::vector<float> absmax(3), x = {1, -5, 2, -3, 4, 0};
  ASSERT_TRUE(observe_absmax(x.data(), 2, absmax, "blocks.0.qkv", pool));
  EXPECT_EQ(absmax, (std::vector<float>{3, 5, 2}));
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    x[4] = bad;
    std::vector<float> most(3);
    const Status status = observe_absmax(x.data(), 2, most, "blocks.0.qkv", pool);
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().message.find("blocks.0.qkv: channel 1"), std::string::npos) << status.error().message;
  }
}

TEST(Error, OutputErrorIsThatOfTheOutputs) {
  ThreadPool pool(2);
  Random random(2);
  const FloatLayer layer = random_layer(20, 70, 9);
  const auto solved = round_to_nearest(layer, {format_of("int3:row"), format_of("f32"), {}, false}, {}, pool);
  std::vector<float> x(70 * 100), row(70);
  for (float& value : x) value = random.normal() + 0.3f;
  Gram gram(70);
  gram.add(x.data(), 100, pool);
  double error = 0, whole = 0, weights = 0, all = 0;
  for (int64_t n = 0; n < 20; ++n) {
    decode_row(*solved, n, row);
    for (size_t k = 0; k < 70; ++k) {
      weights += std::pow(static_cast<double>(row[k]) - static_cast<double>(layer.row(n)[k]), 2);
      all += std::pow(static_cast<double>(layer.row(n)[k]), 2);
    }
    for (size_t m = 0; m < 100; ++m) {
      double y = 0, z = 0;
      for (size_t k = 0; k < 70; ++k) {
        y += static_cast<double>(layer.row(n)[k]) * static_cast<double>(x[m * 70 + k]);
        z += static_cast<double>(row[k]) * static_cast<double>(x[m * 70 + k]);
      }
      error += (y - z) * (y - z);
      whole += y * y;
    }
  }
  const double energy = output_energy(layer, nullptr, gram, pool);
  EXPECT_NEAR(energy, whole, 1e-5 * whole);
  EXPECT_NEAR(output_error(layer, *solved, energy, gram, pool), error / whole, 1e-5 * error / whole);
  EXPECT_NEAR(weight_error(layer, *solved, pool), weights / all, 1e-9);
}

}  // namespace
}  // namespace nibble
