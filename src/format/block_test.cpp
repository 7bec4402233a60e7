// Block formats against vectors and tables that were made apart from this code: the literal formulas of the OCP and
// NVFP4 specifications, and of arXiv 2310.05079.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/random.h"
#include "format/block_scale.h"
#include "format/linear_weight.h"

namespace nibble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

NumberFormat format(const std::string& text) { return parse_format(text).value(); }

// ((37 i mod 23) - 11) / 7 with a few set by hand.
std::vector<float> sample() {
  std::vector<float> x;
  for (int i = 0; i < 32; ++i) x.push_back(static_cast<float>(37 * i % 23 - 11) / 7);
  x[5] = 3;
  x[17] = -1.0f / 32;
  x[20] = 0;
  return x;
}

std::vector<Grid> grids_of(const std::vector<float>& x, const NumberFormat& format, float outer = 1) {
  std::vector<Grid> grids;
  const auto size = static_cast<size_t>(format.group);
  for (size_t i = 0; i < x.size(); i += size)
    grids.push_back(choose_block_grid(std::span(x).subspan(i, size), format, outer));
  return grids;
}

std::string digits(const std::vector<float>& x, const Grid& grid, size_t begin, size_t count) {
  std::string out;
  for (size_t i = begin; i < begin + count; ++i) out += "0123456789abcdef"[grid.encode(x[i])];
  return out;
}

TEST(BlockFormats, Mxfp4GoldenVectors) {
  std::vector<float> x = sample();
  for (const char* rule : {"floor", "up", "even"}) {
    const Grid grid = grids_of(x, format(std::string("mxfp4:b32:") + rule))[0];
    EXPECT_EQ(grid.scale, 0.5f) << rule;
    EXPECT_EQ(digits(x, grid, 0, 32), "d2b4972b50d3a51c3851049d2b49d2b5") << rule;
  }
  x[5] = 3.6f;
  const Grid floor = grids_of(x, format("mxfp4:b32:floor"))[0];
  EXPECT_EQ(floor.scale, 0.5f);
  EXPECT_EQ(digits(x, floor, 0, 32), "d2b4972b50d3a51c3851049d2b49d2b5");
  for (const char* rule : {"up", "even"}) {
    const Grid grid = grids_of(x, format(std::string("mxfp4:b32:") + rule))[0];
    EXPECT_EQ(grid.scale, 1.0f) << rule;
    EXPECT_EQ(digits(x, grid, 0, 32), "b1a2861930b1930a2831029b1a28b193") << rule;
  }
}

TEST(BlockFormats, Nvfp4GoldenVectors) {
  const std::vector<float> x = sample();
  const NumberFormat nvfp4 = format("nvfp4");
  const float outer = outer_scale(nvfp4, 3);
  EXPECT_FLOAT_EQ(outer, 3.0f / 2688);
  const std::vector<Grid> grids = grids_of(x, nvfp4, outer);
  EXPECT_EQ(grids[0].scale, 448);
  EXPECT_EQ(grids[1].scale, 240);
  EXPECT_EQ(digits(x, grids[0], 0, 16), "d2b4972b50d3a51c");
  EXPECT_EQ(digits(x, grids[1], 16, 16), "587206af3d69f4d6");
}

TEST(BlockFormats, BlockFloatingPointGoldenVectors) {
  const std::vector<float> x = sample();
  const std::vector<int> six = {-13, 3,  -7, 9, -1, 24, 5,  -6,  10, 0,   -10, 6,  -5,  11, 1,   -9,
                                14,  -1, 25, 5, 0,  16, -5, -25, 7,  -14, 18,  -2, -23, 9,  -11, 21};
  const std::vector<int> four = {-3, 1, -2, 2, 0, 6, 1,  -1, 3, 0,  -3, 1,  -1, 3, 0,  -2,
                                 3,  0, 6,  1, 0, 4, -1, -6, 2, -3, 5,  -1, -6, 2, -3, 5};
  for (const auto& [name, expected, magnitudes] : {std::tuple("bfp6", six, 32.0f), std::tuple("bfp4", four, 8.0f)}) {
    const std::vector<Grid> grids = grids_of(x, format(name));
    EXPECT_EQ(grids[0].scale, 4 / magnitudes);
    EXPECT_EQ(grids[1].scale, 2 / magnitudes);
    for (size_t i = 0; i < 32; ++i)
      EXPECT_EQ(grids[i / 16].round(x[i]), grids[i / 16].scale * static_cast<float>(expected[i])) << name << " " << i;
  }
}

TEST(BlockFormats, Mxint8GoldenVector) {
  const std::vector<float> x = sample();
  const int expected[] = {-50, 14, -27, 37, -5, 96, 18, -23, 41, 0,   -41, 23, -18, 46, 5,   -37,
                          27,  -1, 50,  9,  0,  32, -9, -50, 14, -27, 37,  -5, -46, 18, -23, 41};
  const Grid grid = grids_of(x, format("mxint8"))[0];
  EXPECT_EQ(grid.scale * 64, 2);  // E8M0 128
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(grid.encode(x[i]) - 128, expected[i]) << i;
}

// All numbers of a minifloat by the formulas of the standards, apart from Element's.
std::vector<double> numbers(const Minifloat& m) {
  std::vector<double> all;
  const int codes = 1 << (m.exponent_bits + m.mantissa_bits);
  for (int code = 0; code < codes - m.reserved; ++code) {
    const int e = code / (1 << m.mantissa_bits), fraction = code % (1 << m.mantissa_bits);
    const double part = static_cast<double>(fraction) / (1 << m.mantissa_bits);
    if (!m.leading_one) {
      all.push_back(std::pow(2.0, e - m.bias) * part);
    } else {
      all.push_back(e == 0 ? std::pow(2.0, 1 - m.bias) * part : std::pow(2.0, e - m.bias) * (1 + part));
    }
  }
  return all;
}

TEST(Element, EveryCodeOfEveryMinifloatIsWhatTheFormulaSays) {
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) {
    if (row->levels != Levels::minifloat) continue;
    const Element& element = Element::of(format(std::string(row->name)));
    const std::vector<double> expected = numbers(row->element);
    const int32_t half = 1 << (row->bits - 1);
    for (int32_t code = 0; code < half; ++code) {
      if (code >= static_cast<int32_t>(expected.size())) {
        EXPECT_FALSE(std::isfinite(element.level(code))) << row->name << " " << code;
        continue;
      }
      EXPECT_EQ(element.level(code), expected[static_cast<size_t>(code)]) << row->name << " " << code;
      EXPECT_EQ(element.level(code + half), -expected[static_cast<size_t>(code)]);
    }
  }
  const auto greatest = [](const char* name) { return Element::of(format(name)).greatest(); };
  EXPECT_EQ(greatest("e4m3"), 480);
  EXPECT_EQ(greatest("fp8e4m3"), 448);
  EXPECT_EQ(greatest("fp8e5m2"), 57344);
  EXPECT_EQ(greatest("e3m2"), 28);
  EXPECT_EQ(greatest("e2m3"), 7.5);
  EXPECT_EQ(greatest("e2m1"), 6);
  EXPECT_EQ(greatest("dmf8"), 256 * .875);
  EXPECT_EQ(greatest("bl8"), 1);
}

// |x| by search among all numbers; of two equally near the one whose mantissa is even.
double nearest(double a, const Minifloat& m) {
  const std::vector<double> all = numbers(m);
  if (a > all.back()) return all.back();
  double best = 0, record = kInfinity;
  int best_mantissa = 0;
  for (size_t code = 0; code < all.size(); ++code) {
    const double distance = std::abs(a - all[code]);
    const int mantissa = static_cast<int>(code) % (1 << m.mantissa_bits);
    if (distance < record || (distance == record && best_mantissa % 2 == 1 && mantissa % 2 == 0)) {
      best = all[code];
      record = distance;
      best_mantissa = mantissa;
    }
  }
  return best;
}

TEST(Element, EncodesToTheNearestNumberTiesToEvenAndSaturates) {
  Random random(3);
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) {
    if (row->levels != Levels::minifloat || !row->element.leading_one) continue;
    const Element& element = Element::of(format(std::string(row->name)));
    const std::vector<double> all = numbers(row->element);
    std::vector<double> tried = {0, 2 * all.back(), 1e30};
    for (size_t i = 0; i + 1 < all.size(); ++i)
      for (double part : {0.0, .25, .5, .75}) tried.push_back(all[i] + part * (all[i + 1] - all[i]));
    for (int i = 0; i < 300; ++i)
      tried.push_back(std::abs(random.normal()) * all.back() * std::pow(2, -random.below(12)));
    for (double a : tried) {
      const auto x = static_cast<float>(a);
      ASSERT_EQ(element.level(element.encode(x)), nearest(static_cast<double>(x), row->element))
          << row->name << " " << a;
      ASSERT_EQ(element.level(element.encode(-x)), -nearest(static_cast<double>(x), row->element)) << row->name;
    }
    EXPECT_EQ(element.encode(kNan), 0);
    EXPECT_EQ(element.level(element.encode(kInfinity)), element.greatest());
  }
}

// The arithmetic that kernels use gives what the table gives.
TEST(Element, ArithmeticOfKernelsAgreesWithTheTable) {
  Random random(4);
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) {
    if (row->levels != Levels::minifloat && row->levels != Levels::magnitude) continue;
    const Element& element = Element::of(format(std::string(row->name)));
    for (int i = 0; i < 4000; ++i) {
      const float x = std::abs(random.normal()) * std::ldexp(element.greatest(), -static_cast<int>(random.below(20)));
      const int exponent = x > 0 ? std::max(std::ilogb(x), element.least_exponent()) : element.least_exponent();
      const float step = std::ldexp(1.0f, exponent - element.mantissa_bits());
      float steps = std::nearbyint(x / step);
      if (element.ties_away() && x / step - steps == .5f) ++steps;
      const float rounded = std::min(steps * step, element.greatest());
      ASSERT_EQ(element.level(element.encode(x)), rounded) << row->name << " " << x;
    }
  }
}

TEST(BlockFormats, OneStaysOneAtEveryWidthAndRule) {
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) {
    const NumberFormat known = format(std::string(row->name));
    if (!known.is_block() || known.sharing == Sharing::tensor || row->name == "bfp2" || known.outer) continue;
    for (int power : {-20, -3, 0, 1, 6}) {
      const float one = known.sharing == Sharing::group ? std::ldexp(1.0f, power) : 1;
      std::vector<float> x(32, one), y(32);
      x[3] = -one / 2;
      round_row(x, known, y);
      EXPECT_EQ(y[0], one) << row->name;
      EXPECT_EQ(y[3], -one / 2) << row->name;
    }
  }
}

// A row of probabilities contains a 1, and it stays one.
TEST(BlockFormats, ProbabilitiesKeepTheirOne) {
  for (const char* name : {"nvfp4", "bfp4", "mxfp4", "bm6", "fixed8:f6"}) {
    std::vector<float> p(32, .3f), y(32);
    p[5] = 1;
    p[20] = 0x1p-9f;
    round_probabilities(p, format(name), y);
    EXPECT_EQ(y[5], 1) << name;
    EXPECT_NEAR(y[0], .3f, .06f) << name;
  }
  // A scale that a row's greatest value chooses does not have a sixth of it.
  std::vector<float> ones(16, 1.0f), y(16);
  round_row(ones, format("nvfp4"), y);
  EXPECT_NE(y[0], 1);
  // No block of probabilities depends on another: small ones have the levels of large ones.
  std::vector<float> small(32, 1.0f), alone(16, 0x1p-12f), rounded(32);
  std::fill(small.begin() + 16, small.end(), 0x1p-12f);
  round_probabilities(small, format("nvfp4"), rounded);
  round_probabilities(alone, format("nvfp4"), alone);
  EXPECT_EQ(rounded[16], 0x1p-12f);
  EXPECT_EQ(alone[0], 0x1p-12f);
  // Where the least scale is still too large a fourth of it, 1.4 * 2^-9 of it gets level 4, the most that kernels know.
  std::vector<float> least(16, 1.4f * 0x1p-17f);
  round_probabilities(least, format("nvfp4"), least);
  EXPECT_EQ(least[0], 0x1p-17f);
}

TEST(BlockFormats, ThePaperRuleReproducesItsQuirks) {
  std::vector<float> ones(16, 1.0f), y(16);
  round_row(ones, format("bfp6:b16:paper"), y);
  EXPECT_EQ(y[0], .96875f);
  round_row(ones, format("bfp4:b16:paper"), y);
  EXPECT_EQ(y[0], .875f);
  // Small weights vanish in its block minifloats: the shared exponent is not allowed to be negative.
  std::vector<float> small(16, .02f);
  round_row(small, format("bm8:b16:paper"), y);
  EXPECT_EQ(y[0], 0);
  round_row(small, format("bm8:b16"), y);
  EXPECT_NEAR(y[0], .02f, .0007f);
  // A mantissa that would carry is cut off.
  EXPECT_EQ(block_grid(format("e4m3:paper"), 1, 1).round(1.97f), 1.875f);
  EXPECT_EQ(block_grid(format("e4m3"), 1, 1).round(1.97f), 2.0f);
}

TEST(BlockFormats, ZeroBlocksSubnormalsAndNumbersThatAreNone) {
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) {
    const NumberFormat known = format(std::string(row->name));
    if (!known.is_block() || known.sharing == Sharing::tensor) continue;
    std::vector<float> x(48, 0.0f), y(48, 7.0f);
    round_row(x, known, y);
    for (float value : y) EXPECT_EQ(value, 0) << row->name;
    x[2] = std::numeric_limits<float>::denorm_min();
    round_row(x, known, y);
    for (float value : y) EXPECT_TRUE(std::abs(value) < 1e-35f) << row->name;
    for (float wrong : {kNan, kInfinity, -kInfinity}) {
      x.assign(48, 1.0f);
      x[40] = wrong;
      round_row(x, known, y);
      EXPECT_TRUE(std::isnan(y[40])) << row->name;
      if (known.sharing != Sharing::group || known.outer) continue;
      EXPECT_EQ(y[0], 1.0f) << row->name;
    }
  }
}

LinearWeight stored(const std::string& text, int64_t kept = 0) {
  LinearWeight weight;
  weight.rows = 2;
  weight.columns = 32;
  weight.format = format(text);
  for (int32_t column = 0; column < kept; ++column) weight.kept_columns.push_back(column);
  const RowSizes row = row_sizes(weight.format, weight.dense_columns(), false);
  weight.codes.resize(static_cast<size_t>(2 * row.codes));
  weight.scales.assign(static_cast<size_t>(2 * row.groups), 0.5f);
  weight.kept.resize(static_cast<size_t>(2 * kept));
  return weight;
}

TEST(BlockFormats, StoredOnesAreRefusedWhereTheyAreNoNumbers) {
  const auto damaged = [](LinearWeight weight, auto damage) {
    damage(weight);
    const Status status = weight.validate("q");
    EXPECT_TRUE(status || status.error().code == ErrorCode::corrupt);
    return !status;
  };
  for (const char* text : {"bfp4", "nvfp4", "mxfp8", "fixed8:f3", "e4m3", "bl8"}) {
    EXPECT_FALSE(damaged(stored(text), [](LinearWeight&) {})) << text;
    EXPECT_FALSE(damaged(stored(text, 32), [](LinearWeight&) {})) << text << " with all columns kept";
    for (float wrong : {0.0f, -1.0f, kNan, kInfinity})
      EXPECT_TRUE(damaged(stored(text), [&](LinearWeight& w) { w.outer = wrong; })) << text << " " << wrong;
  }
  for (float wrong : {0.0f, -1.0f, kNan, 0x1p127f})
    EXPECT_TRUE(damaged(stored("bfp4"), [&](LinearWeight& w) { w.scales[1] = wrong; })) << wrong;
  EXPECT_TRUE(damaged(stored("mxfp8"), [](LinearWeight& w) { w.codes[5] = std::byte{0x7F}; }));
  EXPECT_FALSE(damaged(stored("bm8"), [](LinearWeight& w) { w.codes[5] = std::byte{0x7F}; }));
  EXPECT_TRUE(damaged(stored("fixed8:f-125"), [](LinearWeight&) {}));
  EXPECT_TRUE(std::isnan(scale_of_byte(0xB8, ScaleCodec::e4m3)));
  EXPECT_TRUE(std::isnan(scale_of_byte(127, ScaleCodec::e4m3)));
  EXPECT_TRUE(std::isnan(scale_of_byte(255, ScaleCodec::power)));
  for (int byte = 1; byte <= 126; ++byte)
    EXPECT_EQ(scale_byte(scale_of_byte(static_cast<uint8_t>(byte), ScaleCodec::e4m3), ScaleCodec::e4m3), byte);
  for (int byte = 0; byte <= 254; ++byte)
    EXPECT_EQ(scale_byte(scale_of_byte(static_cast<uint8_t>(byte), ScaleCodec::power), ScaleCodec::power), byte);
}

// The literal definitions of the rules, in double.
int expected_exponent(double a, double greatest, int mantissa, ScaleRule rule) {
  const double top = std::floor(std::log2(greatest));
  switch (rule) {
    case ScaleRule::floor: return static_cast<int>(std::floor(std::log2(a)) - top);
    case ScaleRule::ceil: return static_cast<int>(std::ceil(std::log2(a)) - top);
    case ScaleRule::up: return static_cast<int>(std::ceil(std::log2(a / greatest)));
    case ScaleRule::nearest: return static_cast<int>(std::lround(std::log2(a / greatest)));
    default: {
      const double unit = std::exp2(std::floor(std::log2(a)) - mantissa);
      return static_cast<int>(std::floor(std::log2(std::floor(a / unit + .5) * unit)) - top);
    }
  }
}

TEST(PowerRule, IsTheRuleItIsNamedAfter) {
  Random random(5);
  for (const char* name : {"mxfp4", "mxfp6", "mxfp8", "mxfp8e5m2", "bfp4", "bfp8", "mxint8", "bm6"})
    for (const char* rule : {"floor", "ceil", "up", "even", "nearest"}) {
      const NumberFormat known = format(std::string(name) + ":b32:" + rule);
      const bool integer = known.levels == Levels::integer;
      const double greatest = integer ? 127.0 : static_cast<double>(Element::of(known).greatest());
      const int mantissa = integer ? 6 : Element::of(known).mantissa_bits();
      std::vector<float> tried = {1, 2, 6, 6.0001f, 7, 6.9999f, 7.5f, 448, 1.75f, 1.5f, 127, 126, 1.9375f};
      for (int i = 0; i < 500; ++i) tried.push_back(std::exp(random.normal() * 4));
      for (float a : tried)
        EXPECT_EQ(power_rule(known).exponent(a),
                  expected_exponent(static_cast<double>(a), greatest, mantissa, known.rule))
            << name << " " << rule << " " << a;
    }
}

TEST(BlockFormats, SearchedScalesAreNeverWorse) {
  Random random(6);
  for (const char* name : {"bfp4", "mxfp4", "bm6", "mxfp6", "mxint8", "nvfp4"})
    for (int trial = 0; trial < 50; ++trial) {
      std::vector<float> x(32);
      for (float& value : x) value = random.normal() * std::exp(random.normal());
      const auto error = [&](const std::string& text) {
        const NumberFormat known = format(text);
        const Grid grid = choose_block_grid(x, known, outer_scale(known, 8));
        double sum = 0;
        for (float value : x) sum += std::pow(static_cast<double>(grid.round(value) - value), 2);
        return sum;
      };
      EXPECT_LE(error(std::string(name) + ":b32:search"), error(name)) << name;
    }
}

}  // namespace
}  // namespace nibble
