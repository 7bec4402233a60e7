#include "format/grid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "core/random.h"

namespace nibble {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The code of x by search: of all codes the one whose value is nearest, the even level among two that are equally
// near. Exact, since x, scale and levels are small enough for double. Scales are powers of two, so that 1 / scale is
// exact and the search speaks about the same numbers as the definition.
int32_t nearest_code(double x, double scale, int32_t offset, int bits) {
  int32_t best = 0;
  for (int32_t code = 1; code < 1 << bits; ++code) {
    const double distance = std::abs(x - scale * (code - offset)), record = std::abs(x - scale * (best - offset));
    if (distance < record || (distance == record && (code - offset) % 2 == 0)) best = code;
  }
  return best;
}

TEST(Grid, EncodesToTheNearestLevelAndTiesToEven) {
  Random random(1);
  for (int bits = 2; bits <= 8; ++bits) {
    for (int32_t offset : {0, 1, 1 << (bits - 1), (1 << bits) - 1}) {
      for (float scale : {0.125f, 1.0f, 32.0f}) {
        const Grid grid = Grid::make(scale, offset, bits);
        for (int i = -4 * (2 << bits); i <= 4 * (2 << bits); ++i) {
          const float x = scale * static_cast<float>(i) / 4;  // quarters: every tie and both sides of it
          ASSERT_EQ(grid.encode(x), nearest_code(x, scale, offset, bits)) << bits << " " << offset << " " << x;
        }
        for (int i = 0; i < 200; ++i) {
          const float x = random.normal() * scale * static_cast<float>(1 << bits) / 3;
          ASSERT_EQ(grid.encode(x), nearest_code(x, scale, offset, bits)) << bits << " " << offset << " " << x;
        }
      }
    }
  }
}

TEST(Grid, DecodingIsScaleTimesLevelAndRoundsToItself) {
  for (int bits = 2; bits <= 8; ++bits) {
    const Grid grid = Grid::make(0.37f, 3, bits);
    for (int32_t code = 0; code < 1 << bits; ++code) {
      EXPECT_EQ(grid.decode(code), 0.37f * static_cast<float>(code - 3));
      EXPECT_EQ(grid.encode(grid.decode(code)), code);
      EXPECT_EQ(grid.round(grid.decode(code)), grid.decode(code));
    }
  }
}

// Two levels 14 scales apart, zero anywhere between them; each value takes the nearer one.
TEST(Grid, OneBitHasTwoLevelsAboutAnyCentre) {
  for (int32_t offset = 0; offset <= 14; ++offset) {
    const Grid grid = Grid::make(0.5f, offset, 1);
    const float low = -0.5f * static_cast<float>(offset), high = low + 7;
    EXPECT_EQ(grid.decode(0), low);
    EXPECT_EQ(grid.decode(1), high);
    for (int i = -40; i <= 40; ++i) {
      const float x = 0.25f * static_cast<float>(i);
      ASSERT_EQ(grid.encode(x), std::abs(x - high) < std::abs(x - low) ? 1 : 0) << offset << " " << x;
    }
    EXPECT_EQ(grid.zero(), offset < 7 ? 0 : offset > 7 ? 1 : grid.zero());
    EXPECT_EQ(grid.encode(kNan), 0);
  }
  EXPECT_EQ(symmetric_grid(7, 1).round(-0.1f), -7);
  EXPECT_EQ(symmetric_grid(7, 1).round(0.1f), 7);
  EXPECT_EQ(asymmetric_grid({-3, 11}, 1).round(4.1f), 11);
  EXPECT_EQ(asymmetric_grid({-3, 11}, 1).round(3.9f), -3);
}

TEST(Grid, NanGivesCodeZeroAndInfinitiesTheEnds) {
  const Grid grid = Grid::make(0.5f, 8, 4);
  EXPECT_EQ(grid.encode(kNan), 0);
  EXPECT_EQ(grid.encode(kInfinity), 15);
  EXPECT_EQ(grid.encode(-kInfinity), 0);
  EXPECT_EQ(grid.encode(1e38f), 15);
  EXPECT_EQ(grid.encode(-1e38f), 0);
  EXPECT_EQ(grid.encode(-0.0f), 8);
  EXPECT_EQ(grid.encode(1e-45f), 8);
}

TEST(Range, HoldsZeroAndIgnoresNan) {
  const auto expect = [](std::vector<float> values, float least, float greatest) {
    const Range range = range_of(values);
    EXPECT_EQ(range.least, least);
    EXPECT_EQ(range.greatest, greatest);
  };
  expect({}, 0, 0);
  expect({2, 5, 3}, 0, 5);
  expect({-2, -5}, -5, 0);
  expect({kNan, 1, kNan, -1}, -1, 1);
  expect({kNan}, 0, 0);
  expect({1, kInfinity}, 0, kInfinity);
}

TEST(SymmetricGrid, PutsTheLargestValueOnTheLastLevel) {
  for (int bits = 2; bits <= 8; ++bits) {
    const Grid grid = symmetric_grid(3.0f, bits);
    const int32_t half = 1 << (bits - 1);
    EXPECT_EQ(grid.offset, half);
    EXPECT_EQ(grid.most, 2 * half - 1);
    EXPECT_EQ(grid.scale, 3.0f / static_cast<float>(half - 1));
    EXPECT_EQ(grid.encode(3.0f), 2 * half - 1);
    EXPECT_EQ(grid.encode(0.0f), half);
    EXPECT_EQ(grid.encode(-3.0f), 1) << "symmetric: the least level is reached by rounding only";
  }
}

TEST(AsymmetricGrid, FollowsTheFormulas) {
  Random random(2);
  for (int i = 0; i < 20000; ++i) {
    const int bits = 2 + i % 7;
    Range range{-std::abs(random.normal()) * (i % 3 == 0 ? 0.0f : 1.0f), std::abs(random.normal())};
    if (i % 11 == 0) range.greatest = 0;
    if (range.least == 0 && range.greatest == 0) continue;
    const Grid grid = asymmetric_grid(range, bits);
    const double scale = (static_cast<double>(range.greatest) - range.least) / ((1 << bits) - 1);
    ASSERT_NEAR(grid.scale, scale, 2e-7 * scale);
    ASSERT_GE(grid.offset, 0);
    ASSERT_LE(grid.offset, grid.most);
    ASSERT_NEAR(grid.offset, -range.least / scale, 0.5 + 1e-4);
    EXPECT_EQ(grid.round(0.0f), 0.0f) << "zero is a level";
    // Every value of the range is within one step: half by rounding, half because the offset is rounded.
    for (float x : {range.least, range.greatest, range.least / 2, range.greatest / 3})
      ASSERT_LE(std::abs(grid.round(x) - x), 1.0001 * scale);
  }
}

TEST(AsymmetricGrid, OffsetTiesGoToEven) {
  // range -0.5 .. 2.5 in 2 bits: scale 1, -least / scale = 0.5 rounds to 0; -1.5 .. 1.5 rounds 1.5 to 2.
  EXPECT_EQ(asymmetric_grid({-0.5f, 2.5f}, 2).offset, 0);
  EXPECT_EQ(asymmetric_grid({-1.5f, 1.5f}, 2).offset, 2);
}

TEST(Grids, AllZeroRunsStayFiniteAndExact) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (float tiny : {0.0f, 1e-45f, 1e-31f}) {
      const Grid symmetric = symmetric_grid(tiny, bits), asymmetric = asymmetric_grid({-tiny, tiny / 2}, bits);
      EXPECT_EQ(symmetric.scale, 1.0f / static_cast<float>((1 << (bits - 1)) - 1));
      EXPECT_EQ(asymmetric.scale, 2.0f / static_cast<float>((1 << bits) - 1));
      for (const Grid& grid : {symmetric, asymmetric}) {
        EXPECT_TRUE(std::isfinite(grid.inverse));
        EXPECT_EQ(grid.round(0.0f), 0.0f);
      }
    }
  }
  EXPECT_NE(symmetric_grid(2e-30f, 8).scale, symmetric_grid(0, 8).scale) << "just above the limit is not zero";
}

TEST(Grids, InfiniteRangesAreDefined) {
  for (Range range : {Range{0, kInfinity}, Range{-kInfinity, 0}, Range{-kInfinity, kInfinity}, Range{-3e38f, 3e38f}}) {
    const Grid grid = asymmetric_grid(range, 8);
    EXPECT_EQ(grid.scale, kInfinity) << "so that what is computed with it shows";
    EXPECT_EQ(grid.offset, 0);
    for (float x : {-kInfinity, -1.0f, 0.0f, kNan, 2.0f, kInfinity}) {
      EXPECT_GE(grid.encode(x), 0);
      EXPECT_LE(grid.encode(x), 255);
    }
  }
}

TEST(FitGrid, ChoosesByKind) {
  EXPECT_EQ(fit_grid({-4, 2}, 4, false).scale, symmetric_grid(4, 4).scale);
  EXPECT_EQ(fit_grid({-1, 2}, 4, false).scale, symmetric_grid(2, 4).scale);
  EXPECT_EQ(fit_grid({-1, 2}, 4, true).offset, asymmetric_grid({-1, 2}, 4).offset);
}

}  // namespace
}  // namespace nibble
