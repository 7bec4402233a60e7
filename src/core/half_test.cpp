// Every half and bfloat16 against arithmetic in double, which holds all of them exactly.
#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/random.h"

namespace nibble {
namespace {

uint32_t bits_of_float(float value) { return std::bit_cast<uint32_t>(value); }

// The value of a half by its definition: (-1)^s * 2^(e-15) * (1 + m/1024), or subnormal 2^-14 * m/1024.
double half_value(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double magnitude = exponent == 31  ? (mantissa != 0 ? std::nan("") : HUGE_VAL)
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
  return (h & 0x8000) != 0 ? -magnitude : magnitude;
}

// The nearest half by definition: in units of the last place of the result, std::nearbyint rounds ties to even.
uint16_t nearest_half(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7E00;
  if (magnitude >= 65520.0) return sign | 0x7C00;
  const int exponent = magnitude < std::ldexp(1, -14) ? -14 : std::ilogb(magnitude);
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  // 2048 units carry into the next exponent, by the way the fields lie beside each other.
  return static_cast<uint16_t>(sign + ((exponent + 14) << 10) + units);
}

uint16_t nearest_bfloat(float value) {
  if (std::isnan(value)) return static_cast<uint16_t>(bits_of_float(value) >> 16 | 0x40);
  // The two neighbours of the value, and the double in their middle.
  const uint16_t below = static_cast<uint16_t>(bits_of_float(value) >> 16), above = static_cast<uint16_t>(below + 1);
  if ((below & 0x7FFF) == 0x7F80) return below;
  auto widen = [](uint16_t b) {
    return (b & 0x7FFF) == 0x7F80 ? std::copysign(std::ldexp(1.0, 128), (b & 0x8000) != 0 ? -1.0 : 1.0)
                                  : static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(b) << 16));
  };
  const double middle = (widen(below) + widen(above)) / 2, magnitude = std::fabs(static_cast<double>(value));
  if (magnitude == std::fabs(middle)) return (below & 1) == 0 ? below : above;
  return magnitude < std::fabs(middle) ? below : above;
}

TEST(Half, EveryHalfWidensToItsValue) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const double expected = half_value(static_cast<uint16_t>(h));
    const float found = f16_to_f32(static_cast<uint16_t>(h));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << h;
    } else {
      ASSERT_EQ(bits_of_float(found), bits_of_float(static_cast<float>(expected))) << h;  // tells -0 from 0
    }
  }
}

TEST(Half, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const uint16_t back = f32_to_f16(f16_to_f32(static_cast<uint16_t>(h)));
    if ((h & 0x7FFF) > 0x7C00) {
      ASSERT_TRUE((back & 0x7FFF) > 0x7C00 && (back & 0x8000) == (h & 0x8000)) << h;
    } else {
      ASSERT_EQ(back, h);
    }
  }
}

// Around every half: itself, the middle to the next one, and the floats on both sides of each.
TEST(Half, RoundsToNearestEvenAtEveryBoundary) {
  for (uint32_t h = 0; h < 0x7C00; ++h) {
    const double low = half_value(static_cast<uint16_t>(h));
    const double high = h == 0x7BFF ? 65536.0 : half_value(static_cast<uint16_t>(h + 1));
    for (float centre : {static_cast<float>(low), static_cast<float>((low + high) / 2)})
      for (float value : {centre, std::nextafterf(centre, -1.0f), std::nextafterf(centre, HUGE_VALF)}) {
        ASSERT_EQ(f32_to_f16(value), nearest_half(value)) << value;
        ASSERT_EQ(f32_to_f16(-value), nearest_half(-value)) << -value;
      }
  }
}

TEST(Half, RoundsRandomFloatsOfEveryExponent) {
  Random random(1);
  for (int i = 0; i < 2'000'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random.next()));
    ASSERT_EQ(f32_to_f16(value), nearest_half(value)) << bits_of_float(value);
  }
}

TEST(Half, SpecialValues) {
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7C00);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::infinity()), 0x7C00);
  EXPECT_EQ(f32_to_f16(-std::numeric_limits<float>::infinity()), 0xFC00);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0) << "a tie goes to the even zero";
  EXPECT_EQ(f32_to_f16(0x1.000002p-25f), 1);
}

TEST(Bfloat16, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t b = 0; b < 0x10000; ++b) {
    const float value = bf16_to_f32(static_cast<uint16_t>(b));
    ASSERT_EQ(bits_of_float(value), b << 16);
    const uint16_t back = f32_to_bf16(value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(bf16_to_f32(back))) << b;
    } else {
      ASSERT_EQ(back, b);
    }
  }
}

TEST(Bfloat16, RoundsToNearestEvenAtEveryBoundary) {
  for (uint32_t b = 0; b < 0x10000; ++b)
    for (uint32_t low : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      const float value = std::bit_cast<float>(b << 16 | low);
      ASSERT_EQ(f32_to_bf16(value), nearest_bfloat(value)) << (b << 16 | low);
    }
}

TEST(Bfloat16, NeverTurnsNanIntoInfinity) {
  // A NaN whose payload is only in the half that is cut off.
  const float value = std::bit_cast<float>(0x7F800001u);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(value))));
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value))));
}

}  // namespace
}  // namespace nibble
