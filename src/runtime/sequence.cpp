#include "runtime/sequence.h"

#include <algorithm>
#include <cstring>

#include "core/checked.h"
#include "core/half.h"
#include "core/result.h"

namespace nibble {

Sequence::Sequence(const Spec& spec, CacheType type)
    : kv_heads_(spec.kv_heads),
      head_dim_(spec.head_dim),
      max_positions_(spec.max_positions),
      type_(type),
      keys_(static_cast<size_t>(spec.layers)),
      values_(static_cast<size_t>(spec.layers)) {}

int64_t Sequence::bytes() const { return 2 * static_cast<int64_t>(keys_.size()) * kv_heads_ * capacity_ * row_bytes(); }

void Sequence::truncate(int64_t length) { length_ = std::min(length_, length); }

void Sequence::reserve(int64_t length) {
  if (length <= capacity_) return;
  NIBBLE_CHECK(length <= max_positions_);
  // Doubling, so that a token's share of the copying stays constant; a run of new tokens is rounded up a little.
  const int64_t capacity = std::min(max_positions_, round_up(std::max(length, 2 * capacity_), 64));
  for (Layers* layers : {&keys_, &values_})
    for (AlignedBuffer<std::byte>& layer : *layers) layer = grown(layer, capacity);
  capacity_ = capacity;
}

AlignedBuffer<std::byte> Sequence::grown(const AlignedBuffer<std::byte>& old, int64_t capacity) const {
  AlignedBuffer<std::byte> out(kv_heads_ * capacity * row_bytes());
  for (int64_t head = 0; head < kv_heads_ && length_ > 0; ++head)
    std::memcpy(out.data() + head * capacity * row_bytes(), old.data() + offset(head, 0),
                static_cast<size_t>(length_ * row_bytes()));
  return out;
}

void Sequence::store(int64_t layer, int64_t position, const float* keys, const float* values) {
  const auto index = static_cast<size_t>(layer);
  for (int64_t head = 0; head < kv_heads_; ++head) {
    write(keys_[index].data() + offset(head, position), keys + head * head_dim_);
    write(values_[index].data() + offset(head, position), values + head * head_dim_);
  }
}

void Sequence::write(std::byte* to, const float* from) const {
  if (type_ == CacheType::f32) {
    std::memcpy(to, from, static_cast<size_t>(row_bytes()));
    return;
  }
  auto* halves = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < head_dim_; ++i) halves[i] = f32_to_f16(from[i]);
}

int64_t tokens_of(std::span<const Segment> segments) {
  int64_t count = 0;
  for (const Segment& segment : segments) count += segment.count;
  return count;
}

}  // namespace nibble
