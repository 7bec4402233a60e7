#include "runtime/sequence.h"

#include <gtest/gtest.h>

#include "core/half.h"
#include "runtime/random_source.h"

namespace nibble {
namespace {

float element(const Sequence& sequence, const std::byte* head, int64_t index) {
  return sequence.type() == CacheType::f32 ? reinterpret_cast<const float*>(head)[index]
                                           : f16_to_f32(reinterpret_cast<const uint16_t*>(head)[index]);
}

// A number that a half float holds exactly and that says where it belongs.
float mark(int64_t layer, int64_t head, int64_t position, int64_t i) {
  return static_cast<float>(((layer * 2 + head) * 31 + position) * 12 + i - 500);
}

TEST(Sequence, GrowingKeepsWhatWasStored) {
  const Spec spec = small_spec();
  for (CacheType type : {CacheType::f32, CacheType::f16}) {
    Sequence sequence(spec, type);
    for (int64_t position = 0; position < 31; ++position) {
      sequence.reserve(position + 1);
      for (int64_t layer = 0; layer < spec.layers; ++layer) {
        std::vector<float> keys, values;
        for (int64_t head = 0; head < spec.kv_heads; ++head) {
          for (int64_t i = 0; i < spec.head_dim; ++i) {
            keys.push_back(mark(layer, head, position, i));
            values.push_back(-keys.back());
          }
        }
        sequence.store(layer, position, keys.data(), values.data());
      }
      sequence.advance(1);
    }
    sequence.reserve(96);
    for (int64_t layer = 0; layer < spec.layers; ++layer)
      for (int64_t head = 0; head < spec.kv_heads; ++head)
        for (int64_t position = 0; position < 31; ++position)
          for (int64_t i = 0; i < spec.head_dim; ++i) {
            const float expected = mark(layer, head, position, i);
            ASSERT_EQ(element(sequence, sequence.keys(layer, head), position * spec.head_dim + i), expected);
            ASSERT_EQ(element(sequence, sequence.values(layer, head), position * spec.head_dim + i), -expected);
          }
  }
}

TEST(Sequence, CountsItsBytes) {
  Spec spec = small_spec();
  Sequence sequence(spec, CacheType::f32);
  EXPECT_EQ(sequence.bytes(), 0);
  sequence.reserve(96);  // all of the model's positions
  EXPECT_EQ(sequence.bytes(), 2 * 2 * 2 * 96 * 12 * 4);
  sequence.advance(5);
  sequence.truncate(9);
  EXPECT_EQ(sequence.length(), 5);
  sequence.truncate(2);
  EXPECT_EQ(sequence.length(), 2);
  sequence.clear();
  EXPECT_EQ(sequence.length(), 0);
}

}  // namespace
}  // namespace nibble
