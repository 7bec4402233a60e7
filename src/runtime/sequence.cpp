#include "runtime/sequence.h"

#include <algorithm>

#include "core/checked.h"
#include "core/result.h"

namespace nibble {

Sequence::Sequence(const Spec& spec, CacheType type)
    : layers_(spec.layers),
      kv_heads_(spec.kv_heads),
      head_dim_(spec.head_dim),
      value_stride_(round_up(spec.head_dim, kKeyPanel)),
      max_positions_(spec.max_positions),
      type_(type) {}

int64_t Sequence::bytes() const { return static_cast<int64_t>(pages_.size()) * page_bytes(); }

void Sequence::truncate(int64_t length) { length_ = std::min(length_, length); }

void Sequence::reserve(int64_t length) {
  NIBBLE_CHECK(length <= max_positions_);
  while (static_cast<int64_t>(pages_.size()) * kPagePositions < length) {
    buffers_.emplace_back(page_bytes());
    pages_.push_back(buffers_.back().data());
  }
}

CachedHead Sequence::head(int64_t layer, int64_t kv_head) const {
  const int64_t keys = (layer * kv_heads_ + kv_head) * part_bytes();
  return {type_, head_dim_, value_stride_, pages_.data(), keys, keys + key_bytes()};
}

int64_t tokens_of(std::span<const Segment> segments) {
  int64_t count = 0;
  for (const Segment& segment : segments) count += segment.count;
  return count;
}

}  // namespace nibble
