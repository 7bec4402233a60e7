#include "runtime/positions.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "runtime/random_source.h"

namespace nibble {
namespace {

TEST(Rope, PlainFrequenciesFallFromOneByTheBase) {
  const std::vector<double> f = rope_frequencies({}, 8);
  ASSERT_EQ(f.size(), 4u);
  EXPECT_DOUBLE_EQ(f[0], 1);
  EXPECT_NEAR(f[1], 0.1, 1e-15);
  EXPECT_NEAR(f[2], 0.01, 1e-16);
  EXPECT_NEAR(f[3], 0.001, 1e-17);
}

TEST(Rope, LinearScalingDividesAll) {
  Rope rope;
  rope.scaling = RopeScaling::linear;
  rope.factor = 4;
  EXPECT_DOUBLE_EQ(rope_frequencies(rope, 8)[0], 0.25);
  EXPECT_NEAR(rope_frequencies(rope, 8)[3], 0.00025, 1e-17);
}

// LLaMA 3.1: head_dim 128, base 500000, factor 8, low 1, high 4, 8192 positions before. Wavelengths below 2048 stay,
// above 8192 are multiplied by 8, and between them the frequency changes without a jump.
TEST(Rope, Llama3LeavesShortWavelengthsAlone) {
  Rope plain{.theta = 500000}, rope = plain;
  rope.scaling = RopeScaling::llama3;
  rope.factor = 8;
  const std::vector<double> before = rope_frequencies(plain, 128), after = rope_frequencies(rope, 128);
  int kept = 0, between = 0, divided = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / before[i], ratio = after[i] / before[i];
    if (wavelength < 2048) {
      EXPECT_DOUBLE_EQ(ratio, 1);
      ++kept;
    } else if (wavelength > 8192) {
      EXPECT_NEAR(ratio, 0.125, 1e-15);
      ++divided;
    } else {
      const double share = (8192 / wavelength - 1) / 3;
      EXPECT_NEAR(ratio, 0.125 + 0.875 * share, 1e-12);
      ++between;
    }
  }
  EXPECT_EQ(kept + between + divided, 64);
  EXPECT_GT(kept, 20);
  EXPECT_GT(between, 3);
  EXPECT_GT(divided, 20);
}

TEST(Alibi, SlopesOfPowersOfTwoAndOfOtherCounts) {
  EXPECT_EQ(alibi_slopes(8), (std::vector<float>{0.5f, 0.25f, 0.125f, 0.0625f, 0x1p-5f, 0x1p-6f, 0x1p-7f, 0x1p-8f}));
  EXPECT_EQ(alibi_slopes(4), (std::vector<float>{0.25f, 0x1p-4f, 0x1p-6f, 0x1p-8f}));
  EXPECT_EQ(alibi_slopes(6), (std::vector<float>{0.25f, 0x1p-4f, 0x1p-6f, 0x1p-8f, 0.5f, 0.125f}));
  // 2^-0.5 = 0.70711 in bfloat16 is 181/256.
  EXPECT_EQ(alibi_slopes(12)[8], 181.0f / 256);
  EXPECT_EQ(alibi_slopes(12).size(), 12u);
}

TEST(Alibi, BiasesAreRoundedToBfloat16) {
  Spec spec = small_spec();
  spec.positions = Positions::alibi;
  spec.heads = spec.kv_heads = 12;
  spec.max_positions = 1000;
  PositionTables tables;
  tables.reserve(spec, 1000);
  // 181/256 * 59 = 41.71; bfloat16 has steps of 0.25 there. Positions above 256 are rounded themselves: 601 to 600.
  EXPECT_EQ(tables.bias(8)[59], 41.75f);
  EXPECT_EQ(tables.bias(0)[601], 300.0f);
  EXPECT_EQ(tables.bias(0)[3], 1.5f);
  spec.alibi_scale = 0.5;
  tables.reserve(spec, 10);
  EXPECT_EQ(tables.bias(0)[3], 0.75f);
}

// Past the first room, token after token, in leaps, and after a table of another kind.
TEST(PositionTables, GrowingChangesNoEntry) {
  constexpr int64_t kPositions = 9001;
  Spec spec = small_spec();
  spec.heads = spec.kv_heads = 3;
  spec.max_positions = kPositions;
  for (const Positions kind : {Positions::rotary, Positions::alibi}) {
    spec.positions = kind;
    for (const int64_t step : {1, 64, 1000}) {
      PositionTables grown, whole;
      whole.reserve(spec, kPositions);
      Spec other = spec;
      other.positions = kind == Positions::rotary ? Positions::alibi : Positions::rotary;
      grown.reserve(other, 100);
      for (int64_t n = 1; n < kPositions; n += step) grown.reserve(spec, n);
      grown.reserve(spec, kPositions);
      grown.reserve(spec, 7);  // what is there stays
      const bool rotary = kind == Positions::rotary;
      ASSERT_EQ(grown.bias(0) == nullptr, rotary);
      for (int64_t i = 0; i < kPositions * spec.head_dim / 2 && rotary; ++i) {
        ASSERT_EQ(grown.cosines()[i], whole.cosines()[i]) << step << " at a time, entry " << i;
        ASSERT_EQ(grown.sines()[i], whole.sines()[i]) << step << " at a time, entry " << i;
      }
      for (int64_t i = 0; i < kPositions && !rotary; ++i)
        for (int64_t head = 0; head < spec.heads; ++head)
          ASSERT_EQ(grown.bias(head)[i], whole.bias(head)[i]) << step << " at a time, head " << head << ", " << i;
    }
  }
}

TEST(PositionTables, AnglesArePositionTimesFrequency) {
  Spec spec = small_spec();
  spec.max_positions = 5000;
  PositionTables tables;
  for (const int64_t n : {1, 4096, 4097, 5000}) tables.reserve(spec, n);
  const std::vector<double> frequencies = rope_frequencies(spec.rope, spec.head_dim);
  for (const int64_t position : {0, 7, 63, 64, 4095, 4096, 4999})
    for (int64_t i = 0; i < spec.head_dim / 2; ++i) {
      const double angle = static_cast<double>(position) * frequencies[static_cast<size_t>(i)];
      EXPECT_EQ(tables.cosines()[position * spec.head_dim / 2 + i], static_cast<float>(std::cos(angle))) << position;
      EXPECT_EQ(tables.sines()[position * spec.head_dim / 2 + i], static_cast<float>(std::sin(angle))) << position;
    }
}

}  // namespace
}  // namespace nibble
