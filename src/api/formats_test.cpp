#include <nibble/formats.h>

#include <gtest/gtest.h>

#include <set>

namespace nibble {
namespace {

const FormatFigures& find(const std::vector<FormatFigures>& all, const std::string& name) {
  for (const FormatFigures& figures : all)
    if (figures.name == name) return figures;
  ADD_FAILURE() << name << " is not listed";
  return all[0];
}

// Signal to noise of an independent simulation in float64, to a tenth of a decibel; densities by hand.
TEST(FormatFigures, AgreeWithAnIndependentSimulation) {
  struct Known {
    const char* name;
    double bits, normal, student;
  };
  constexpr Known kKnown[] = {
      {"bfp8:b16", 8.5, 43.1, 41.0},         {"bfp6:b16", 6.5, 31.1, 28.9},
      {"bfp5:b16", 5.5, 25.1, 22.9},         {"bfp4:b16", 4.5, 19.0, 17.0},
      {"e4m3:paper", 8, 28.9, 29.9},         {"dmf8:paper", 8, 24.5, 24.5},
      {"bl8:b16", 8.5, 13.7, 13.8},          {"mxint8:b32", 8.25, 42.4, 39.2},
      {"mxfp8:b32:floor", 8.25, 30.6, 29.8}, {"mxfp8:b32:up", 8.25, 31.6, 31.4},
      {"mxfp6:b32", 6.25, 31.1, 29.9},       {"mxfp4:b32:floor", 4.25, 18.8, 17.6},
      {"mxfp4:b32", 4.25, 19.0, 17.8},       {"mxfp4:b32:search", 4.25, 19.05, 17.9},
      {"nvfp4:b16", 4.5, 20.5, 20.7},        {"nvfp4:b16:4over6", 4.5, 21.2, 21.2},
  };
  FormatFiguresOptions options;
  for (const Known& known : kKnown) options.formats.push_back(known.name);
  const auto all = format_figures(options);
  ASSERT_TRUE(all) << all.error().message;
  for (const Known& known : kKnown) {
    const FormatFigures& found = find(*all, known.name);
    EXPECT_NEAR(found.bits, known.bits, .01) << known.name;
    EXPECT_NEAR(found.memory_density, 32 / known.bits, .01) << known.name;
    EXPECT_NEAR(found.snr_normal, known.normal, .25) << known.name;
    EXPECT_NEAR(found.snr_student, known.student, .45) << known.name;  // heavy tails: one number can decide
  }
}

TEST(FormatFigures, TheWholeListAndItsErrors) {
  const auto all = format_figures();
  ASSERT_TRUE(all) << all.error().message;
  std::set<std::string> names;
  for (const FormatFigures& figures : *all) {
    EXPECT_TRUE(names.insert(figures.name).second) << figures.name;
    EXPECT_GT(figures.arithmetic_density, .9) << figures.name;
    EXPECT_FALSE(figures.kind.empty()) << figures.name;
    EXPECT_FALSE(figures.snr_weights) << figures.name;
  }
  EXPECT_EQ(find(*all, "f32").arithmetic_density, 1);
  // The best quantizers of a normal variable (J. Max, 1960, table I); 16 levels fit 4096 numbers better than that.
  EXPECT_NEAR(find(*all, "code2:row").snr_normal, 9.30, .1);
  EXPECT_NEAR(find(*all, "code3:row").snr_normal, 14.62, .1);
  EXPECT_NEAR(find(*all, "code4:row").snr_normal, 20.22, .25);
  EXPECT_NEAR(find(*all, "code3:row").bits, 3 + 8 * (8 + 1) / 4096.0, 1e-9);
  EXPECT_EQ(format_figures({.formats = {"code3:col"}}).error().code, ErrorCode::usage);
  EXPECT_GT(find(*all, "bfp4:b16").arithmetic_density, find(*all, "bfp6:b16").arithmetic_density);
  EXPECT_EQ(find(*all, "bfp6:b16").published_density, 19);
  EXPECT_EQ(format_figures({.formats = {"bfp6:g16"}}).error().code, ErrorCode::usage);
  EXPECT_EQ(format_figures({.model = "/nowhere"}).error().code, ErrorCode::io);
}

}  // namespace
}  // namespace nibble
