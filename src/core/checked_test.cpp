#include "core/checked.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/buffer.h"
#include "core/random.h"

namespace nibble {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max(), kMin = std::numeric_limits<int64_t>::min();
constexpr uint64_t kMaxUnsigned = std::numeric_limits<uint64_t>::max();

// The same in 128 bits, where nothing of 64 bits can wrap.
std::optional<int64_t> fits(__int128_t value) {
  if (value < kMin || value > kMax) return std::nullopt;
  return static_cast<int64_t>(value);
}

TEST(Checked, AgreesWithWiderArithmetic) {
  Random random(7);
  std::vector<int64_t> numbers{0,        1,        -1,       2,        -2,         kMax,      kMin,
                               kMax - 1, kMin + 1, kMax / 2, kMin / 2, 3037000499, 3037000500};
  for (int i = 0; i < 100; ++i) numbers.push_back(static_cast<int64_t>(random.next()) >> random.below(64));
  for (int64_t a : numbers)
    for (int64_t b : numbers) {
      ASSERT_EQ(checked_add(a, b), fits(static_cast<__int128_t>(a) + b)) << a << " + " << b;
      ASSERT_EQ(checked_mul(a, b), fits(static_cast<__int128_t>(a) * b)) << a << " * " << b;
    }
}

TEST(Checked, UnsignedEdges) {
  EXPECT_EQ(checked_add<uint64_t>(kMaxUnsigned, 0), kMaxUnsigned);
  EXPECT_EQ(checked_add<uint64_t>(kMaxUnsigned, 1), std::nullopt);
  EXPECT_EQ(checked_mul<uint64_t>(uint64_t{1} << 32, uint64_t{1} << 32), std::nullopt);
  EXPECT_EQ(checked_mul<uint64_t>(uint64_t{1} << 32, (uint64_t{1} << 32) - 1), 0xFFFFFFFF00000000u);
  EXPECT_EQ(checked_mul<uint8_t>(16, 16), std::nullopt);
}

std::optional<int64_t> product(std::vector<int64_t> shape) { return checked_product(std::span<const int64_t>(shape)); }

TEST(Checked, ProductOfAShape) {
  EXPECT_EQ(product({}), 1);
  EXPECT_EQ(product({2, 3, 4}), 24);
  EXPECT_EQ(product({5, 0, 7}), 0);
  EXPECT_EQ(product({kMax}), kMax);
  EXPECT_EQ(product({int64_t{1} << 32, int64_t{1} << 31}), std::nullopt);
  EXPECT_EQ(product({int64_t{1} << 32, int64_t{1} << 32, 0}), std::nullopt) << "a zero does not hide the overflow";
  EXPECT_EQ(product({0, int64_t{1} << 32, int64_t{1} << 32}), std::nullopt);
}

TEST(Checked, CeilDivAndRoundUp) {
  EXPECT_EQ(ceil_div(0, 8), 0);
  EXPECT_EQ(ceil_div(1, 8), 1);
  EXPECT_EQ(ceil_div(8, 8), 1);
  EXPECT_EQ(ceil_div(9, 8), 2);
  EXPECT_EQ(round_up(17, 16), 32);
  EXPECT_EQ(round_up(16, 16), 16);
}

TEST(AlignedBuffer, IsAlignedAndZeroed) {
  for (int64_t count : {1, 3, 64, 1000}) {
    AlignedBuffer<float> buffer(count);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_EQ(buffer.size(), count);
    for (float value : buffer.span()) ASSERT_EQ(value, 0.0f);
  }
  EXPECT_EQ(AlignedBuffer<int>(0).data(), nullptr);
}

TEST(AlignedBuffer, ReserveGrowsAndNeverShrinks) {
  AlignedBuffer<int32_t> buffer(4);
  buffer[0] = 7;
  buffer.reserve(2);
  EXPECT_EQ(buffer.size(), 4);
  EXPECT_EQ(buffer[0], 7) << "the contents stay when nothing grows";
  buffer.reserve(100);
  EXPECT_EQ(buffer.size(), 100);
}

}  // namespace
}  // namespace nibble
