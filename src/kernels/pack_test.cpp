// Packing of whole panels, which takes another way than the ragged ones of linear_test, and views of packed images.
#include <cstring>

#include "kernels/linear.h"
#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

constexpr const char* kFormats[] = {"int4:row",      "int4:g32:asym", "int4:g128",    "int8:row",
                                    "int8:g32:asym", "int3:g32",      "int:g32:asym", "int:g16",
                                    "f16",           "bf16",          "f32"};

void expect_same(const LinearWeight& a, const LinearWeight& b, const char* what) {
  EXPECT_EQ(a.codes, b.codes) << what;
  EXPECT_EQ(a.scales, b.scales) << what;
  EXPECT_EQ(a.offsets, b.offsets) << what;
  EXPECT_EQ(a.widths, b.widths) << what;
  EXPECT_EQ(a.bias, b.bias) << what;
}

int32_t sum_at(const PackedDense& dense, int64_t i) {
  return dense.compact ? static_cast<const int16_t*>(dense.sums)[i] : static_cast<const int32_t*>(dense.sums)[i];
}

// Sums of level - zero over each group, from the codes.
void expect_sums(const LinearWeight& weight, const PackedDense& dense) {
  std::vector<uint8_t> codes(static_cast<size_t>(weight.columns));
  for (int64_t n = 0; n < weight.rows; ++n) {
    decode_codes(weight, n, codes);
    for (int64_t g = 0; g < dense.groups; ++g) {
      int32_t sum = 0;
      const Grid grid = weight.grid(n, g);
      for (int64_t k = g * dense.group_size; k < std::min(weight.columns, (g + 1) * dense.group_size); ++k)
        sum += grid.step * codes[static_cast<size_t>(k)] - grid.offset;
      EXPECT_EQ(sum_at(dense, (n / kLanes * dense.groups + g) * kLanes + n % kLanes), sum) << n << ", group " << g;
    }
  }
}

TEST(Pack, WholePanelsUnpackToTheSameWeights) {
  Random random(3);
  ThreadPool pool(2);
  for (const char* format : kFormats)
    for (int64_t columns : {288, 296}) {
      const LinearWeight weight =
          random_layer(random, {.rows = 70, .columns = columns, .format = format, .bias = true});
      auto layer = PackedLinear::pack(weight, detected_isa(), pool);
      ASSERT_TRUE(layer) << layer.error().message;
      expect_same(layer->unpack(), weight, format);
      if (weight.format.is_integer()) expect_sums(weight, layer->arguments({}, nullptr, 0).dense);
    }
}

TEST(Pack, ViewsOfAnImageAreTheLayer) {
  Random random(4);
  ThreadPool pool(1);
  for (const char* format : kFormats) {
    const LinearWeight weight =
        random_layer(random, {.rows = 40, .columns = 100, .kept = 9, .format = format, .bias = true});
    auto layer = PackedLinear::pack(weight, detected_isa(), pool);
    ASSERT_TRUE(layer) << layer.error().message;
    auto copy = std::make_shared<AlignedBuffer<std::byte>>(layer->bytes());
    std::memcpy(copy->data(), layer->image().data(), layer->image().size());
    const auto image = std::as_const(*copy).span();
    auto view = PackedLinear::view(layer->shape(), detected_isa(), image, copy);
    ASSERT_TRUE(view) << view.error().message;
    expect_same(view->unpack(), layer->unpack(), format);
    EXPECT_EQ(view->unpack().kept, weight.kept);
    EXPECT_FALSE(PackedLinear::view(layer->shape(), detected_isa(), image.first(image.size() - 64), copy));
    PackedShape hostile = layer->shape();
    hostile.rows = INT64_MAX / 2;
    EXPECT_FALSE(PackedLinear::view(hostile, detected_isa(), image, copy));
    hostile = layer->shape();
    hostile.kept_columns.back() = 100;
    EXPECT_FALSE(PackedLinear::view(hostile, detected_isa(), image, copy));
  }
}

}  // namespace
}  // namespace nibble
