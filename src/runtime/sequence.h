// The keys and values of one sequence in all layers, and batches made of runs of new tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "kernels/abi/attention.h"
#include "model/spec.h"

namespace nibble {

// A KV cache in f32 or f16: pages of 64 positions, each with the parts of all layers and heads, [layer][kv head] as
// kernels/abi/attention.h lays them out. A page is allocated when it is first needed and never moves, so growing copies
// nothing. Owned by whoever generates; one forward pass at a time may write to it.
class Sequence {
 public:
  Sequence(const Spec& spec, CacheType type);

  // Positions that are complete in all layers: the next token goes to position length().
  int64_t length() const { return length_; }
  int64_t max_positions() const { return max_positions_; }
  CacheType type() const { return type_; }
  int64_t bytes() const;  // allocated

  void clear() { length_ = 0; }
  // Forgets what comes after `length`; does nothing when there is less.
  void truncate(int64_t length);
  // Room for `length` positions (at most max_positions()).
  void reserve(int64_t length);
  // `count` more positions have been stored in all layers.
  void advance(int64_t count) { length_ += count; }

  // Where the kernels find, and put, the keys and values of one head. Valid until the next reserve().
  CachedHead head(int64_t layer, int64_t kv_head) const;

 private:
  int64_t value_bytes() const { return type_ == CacheType::f32 ? 4 : 2; }
  int64_t key_bytes() const { return kPagePositions * head_dim_ * value_bytes(); }  // of one head's part of a page
  int64_t part_bytes() const { return key_bytes() + kPagePositions * value_stride_ * value_bytes(); }
  int64_t page_bytes() const { return layers_ * kv_heads_ * part_bytes(); }

  int64_t layers_, kv_heads_, head_dim_, value_stride_, max_positions_, length_ = 0;
  CacheType type_;
  std::vector<AlignedBuffer<std::byte>> buffers_;
  std::vector<std::byte*> pages_;  // their beginnings
};

// A run of new tokens of one sequence in a batch. A sequence occurs in at most one segment of a batch.
struct Segment {
  Sequence* sequence = nullptr;
  int64_t count = 0;     // tokens of this segment (rows of the hidden state, in order)
  int64_t position = 0;  // of its first token
};

int64_t tokens_of(std::span<const Segment> segments);

}  // namespace nibble
