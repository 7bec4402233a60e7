#include "checkpoint/tensor.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "checkpoint/testing.h"
#include "core/half.h"
#include "core/random.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::expect_ok;

template <class T>
TensorView view(DType dtype, const std::vector<T>& values, std::vector<int64_t> shape) {
  return {"model.w", dtype, std::move(shape), std::as_bytes(std::span(values))};
}

TEST(DType, NamesAndBackAgain) {
  for (int i = 0; i <= static_cast<int>(DType::u64); ++i) {
    const auto type = static_cast<DType>(i);
    EXPECT_EQ(dtype_named(name_of(type)), type);
  }
  EXPECT_EQ(name_of(DType::bf16), "BF16");
  EXPECT_EQ(name_of(DType::f8_e5m2fnuz), "F8_E5M2FNUZ");
  for (const char* name : {"", "f32", "F32 ", "FLOAT", "F128"}) EXPECT_EQ(dtype_named(name), std::nullopt) << name;
}

TEST(ReadFloats, WidensEachType) {
  const std::vector<float> singles{1.5f, -0.0f, 3e38f, 1e-45f};
  const std::vector<uint16_t> halves{0x3E00, 0x8000, 0x7BFF, 0x0001};
  const std::vector<uint16_t> brains{0x3FC0, 0x8000, 0x7F7F, 0x0001};
  auto read = [](const TensorView& tensor) {
    std::vector<float> out(4);
    expect_ok(read_floats(tensor, 0, out));
    return out;
  };
  EXPECT_EQ(read(view(DType::f32, singles, {4})), singles);
  EXPECT_EQ(read(view(DType::f16, halves, {4})), (std::vector<float>{1.5f, -0.0f, 65504.0f, 0x1p-24f}));
  EXPECT_EQ(read(view(DType::bf16, brains, {2, 2})),
            (std::vector<float>{1.5f, -0.0f, std::bit_cast<float>(0x7F7F0000u), std::bit_cast<float>(0x00010000u)}));
}

TEST(ReadFloats, APartAndBytesWithoutAlignment) {
  std::vector<std::byte> bytes(1 + 2 * 10);
  for (uint16_t i = 0; i < 10; ++i) {
    const uint16_t h = f32_to_f16(static_cast<float>(i));
    std::memcpy(bytes.data() + 1 + 2 * i, &h, 2);
  }
  const TensorView tensor{"w", DType::f16, {10}, std::span(bytes).subspan(1)};
  std::vector<float> out(3);
  expect_ok(read_floats(tensor, 7, out));
  EXPECT_EQ(out, (std::vector<float>{7, 8, 9}));
  expect_ok(read_floats(tensor, 10, std::span<float>()));
  expect_ok(read_floats({"empty", DType::f32, {0, 3}, {}}, 0, std::span<float>()));
}

TEST(ReadFloats, OtherTypesAreNamed) {
  const std::vector<int64_t> values{1};
  float out = 0;
  expect_error(read_floats(view(DType::i64, values, {1}), 0, std::span(&out, 1)), ErrorCode::unsupported, "model.w",
               "I64", "F32, F16 and BF16");
}

TEST(ReadFloatsDeathTest, OutsideTheTensor) {
  const std::vector<float> values(4);
  std::vector<float> out(3);
  EXPECT_DEATH((void)read_floats(view(DType::f32, values, {4}), 2, out), "broken invariant");
}

TEST(CheckFinite, FindsTheFirstAndNamesItsPlace) {
  std::vector<float> values(3 * 5000, 0.25f);
  const TensorView tensor = view(DType::f32, values, {3, 5000});
  expect_ok(check_finite(tensor));
  values[2 * 5000 + 17] = std::numeric_limits<float>::quiet_NaN();
  expect_error(check_finite(tensor), ErrorCode::corrupt, "tensor model.w holds nan at [2, 17]");
  values[4097] = -std::numeric_limits<float>::infinity();
  expect_error(check_finite(tensor), ErrorCode::corrupt, "holds -inf at [0, 4097]");
}

// Every 16-bit pattern, against the definition.
template <class IsFinite>
void check_all_patterns(DType dtype, IsFinite is_finite) {
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    std::vector<uint16_t> values(9, 0x3C00);
    values[pattern % 9] = static_cast<uint16_t>(pattern);
    ASSERT_EQ(check_finite(view(dtype, values, {9})).has_value(), is_finite(static_cast<uint16_t>(pattern))) << pattern;
  }
}

TEST(CheckFinite, EveryHalfAndEveryBfloat) {
  check_all_patterns(DType::f16, [](uint16_t v) { return std::isfinite(f16_to_f32(v)); });
  check_all_patterns(DType::bf16, [](uint16_t v) { return std::isfinite(bf16_to_f32(v)); });
}

TEST(CheckFinite, EveryPositionOfALongTensor) {
  std::vector<uint16_t> values(4096 * 2 + 5, 0x3C00);
  const TensorView tensor = view(DType::f16, values, {static_cast<int64_t>(values.size())});
  for (size_t i = 0; i < values.size(); i += 7) {
    values[i] = 0x7C00;
    expect_error(check_finite(tensor), ErrorCode::corrupt, fmt::format("holds inf at [{}]", i));
    values[i] = 0x3C00;
  }
}

TEST(CheckFinite, DoublesIntegersAndNothing) {
  std::vector<double> doubles{1, 1e308};
  expect_ok(check_finite(view(DType::f64, doubles, {2})));
  doubles[1] = HUGE_VAL;
  expect_error(check_finite(view(DType::f64, doubles, {2})), ErrorCode::corrupt, "holds inf at [1]");
  const std::vector<int32_t> integers{0x7F800000, -1};
  expect_ok(check_finite(view(DType::i32, integers, {2})));
  expect_ok(check_finite({"empty", DType::f32, {0}, {}}));
  const std::vector<float> scalar{std::numeric_limits<float>::infinity()};
  expect_error(check_finite(view(DType::f32, scalar, {})), ErrorCode::corrupt, "holds inf at []");
}

}  // namespace
}  // namespace nibble
