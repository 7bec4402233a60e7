#include "runtime/sequence.h"

#include <gtest/gtest.h>

#include <cstring>

#include "runtime/random_source.h"

namespace nibble {
namespace {

// Where one value of the keys (or values) of a head lies.
float* key(const CachedHead& head, int64_t position, int64_t d) {
  const int64_t in_page = position % kPagePositions;
  return reinterpret_cast<float*>(head.pages[position / kPagePositions] + head.keys) +
         (in_page / kKeyPanel * head.head_dim + d) * kKeyPanel + in_page % kKeyPanel;
}
float* value(const CachedHead& head, int64_t position, int64_t d) {
  return reinterpret_cast<float*>(head.pages[position / kPagePositions] + head.values) +
         position % kPagePositions * head.value_stride + d;
}

// A number that says where it belongs.
float mark(int64_t layer, int64_t head, int64_t position, int64_t i) {
  return static_cast<float>(((layer * 2 + head) * 96 + position) * 12 + i + 1);
}

template <class Visit>
void each_entry(const Spec& spec, int64_t begin, int64_t end, const Visit& visit) {
  for (int64_t layer = 0; layer < spec.layers; ++layer)
    for (int64_t head = 0; head < spec.kv_heads; ++head)
      for (int64_t position = begin; position < end; ++position)
        for (int64_t i = 0; i < spec.head_dim; ++i) visit(layer, head, position, i);
}

TEST(Sequence, GrowingKeepsWhatWasStoredInAPlaceOfItsOwn) {
  const Spec spec = small_spec();
  Sequence sequence(spec, CacheType::f32);
  for (int64_t begin = 0; begin < 96; begin += 32) {
    sequence.reserve(begin + 32);
    each_entry(spec, begin, begin + 32, [&](int64_t layer, int64_t head, int64_t position, int64_t i) {
      *key(sequence.head(layer, head), position, i) = mark(layer, head, position, i);
      *value(sequence.head(layer, head), position, i) = -mark(layer, head, position, i);
    });
  }
  each_entry(spec, 0, 96, [&](int64_t layer, int64_t head, int64_t position, int64_t i) {
    ASSERT_EQ(*key(sequence.head(layer, head), position, i), mark(layer, head, position, i));
    ASSERT_EQ(*value(sequence.head(layer, head), position, i), -mark(layer, head, position, i));
  });
}

TEST(Sequence, APageOnceAllocatedStays) {
  const Spec spec = small_spec();
  Sequence sequence(spec, CacheType::f16);
  sequence.reserve(1);
  const std::byte* const first = sequence.head(0, 0).pages[0];
  sequence.reserve(96);
  EXPECT_EQ(sequence.head(0, 0).pages[0], first);
  sequence.clear();
  sequence.reserve(3);
  EXPECT_EQ(sequence.head(0, 0).pages[0], first);
}

TEST(Sequence, CountsItsBytes) {
  Spec spec = small_spec();
  Sequence sequence(spec, CacheType::f32), half(spec, CacheType::f16);
  EXPECT_EQ(sequence.bytes(), 0);
  half.reserve(64);
  // Two layers of two heads with 64 positions; head_dim is 12, in values rounded up to 16.
  EXPECT_EQ(half.bytes(), 2 * 2 * 64 * (12 + 16) * 2);
  sequence.reserve(96);  // all of the model's positions: two pages
  EXPECT_EQ(sequence.bytes(), 2 * 2 * 128 * (12 + 16) * 4);
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
