#include <gtest/gtest.h>
#include <nibble/units.h>

namespace nibble {
namespace {

TEST(HumanBytes, CountsInPowersOfTen) {
  EXPECT_EQ(human_bytes(0), "0 bytes");
  EXPECT_EQ(human_bytes(999), "999 bytes");
  EXPECT_EQ(human_bytes(1000), "1.0 kB");
  EXPECT_EQ(human_bytes(999'949), "999.9 kB");
  EXPECT_EQ(human_bytes(999'950), "1.0 MB");
  EXPECT_EQ(human_bytes(int64_t{1} << 30), "1.1 GB");
  EXPECT_EQ(human_bytes(int64_t{5'000'000'000'000'000}), "5000.0 TB");
}

}  // namespace
}  // namespace nibble
