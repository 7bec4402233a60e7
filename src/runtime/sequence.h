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

// A KV cache, stored [layer][kv head][position][head_dim] in f32 or f16 and grown as needed, never beyond the model's
// positions. Owned by whoever generates; one forward pass at a time may write to it.
class Sequence {
 public:
  Sequence(const Spec& spec, CacheType type);

  // Positions that are complete in all layers: the next token goes to position length().
  int64_t length() const { return length_; }
  int64_t max_positions() const { return max_positions_; }
  CacheType type() const { return type_; }
  int64_t bytes() const;  // resident

  void clear() { length_ = 0; }
  // Forgets what comes after `length`; does nothing when there is less.
  void truncate(int64_t length);
  // Room for `length` positions (at most max_positions()); what was stored at positions below length() survives.
  void reserve(int64_t length);
  // `count` more positions have been stored in all layers.
  void advance(int64_t count) { length_ += count; }

  // Stores one token's keys and values, each [kv_heads][head_dim], at a reserved position.
  void store(int64_t layer, int64_t position, const float* keys, const float* values);
  // The first position of one head: [capacity][head_dim] elements of type().
  const std::byte* keys(int64_t layer, int64_t kv_head) const { return at(keys_, layer, kv_head, 0); }
  const std::byte* values(int64_t layer, int64_t kv_head) const { return at(values_, layer, kv_head, 0); }

 private:
  using Layers = std::vector<AlignedBuffer<std::byte>>;  // one buffer per layer: [kv head][capacity][head_dim]
  int64_t row_bytes() const { return head_dim_ * (type_ == CacheType::f32 ? 4 : 2); }
  int64_t offset(int64_t kv_head, int64_t position) const { return (kv_head * capacity_ + position) * row_bytes(); }
  const std::byte* at(const Layers& layers, int64_t layer, int64_t kv_head, int64_t position) const {
    return layers[static_cast<size_t>(layer)].data() + offset(kv_head, position);
  }
  AlignedBuffer<std::byte> grown(const AlignedBuffer<std::byte>& old, int64_t capacity) const;
  void write(std::byte* to, const float* from) const;

  int64_t kv_heads_, head_dim_, max_positions_, capacity_ = 0, length_ = 0;
  CacheType type_;
  Layers keys_, values_;
};

// A run of new tokens of one sequence in a batch. A sequence occurs in at most one segment of a batch.
struct Segment {
  Sequence* sequence = nullptr;
  int64_t count = 0;     // tokens of this segment (rows of the hidden state, in order)
  int64_t position = 0;  // of its first token
};

int64_t tokens_of(std::span<const Segment> segments);

}  // namespace nibble
