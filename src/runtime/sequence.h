// The keys and values of one sequence in all layers, and batches made of runs of new tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "kernels/attention_plan.h"
#include "model/spec.h"

namespace nibble {

// What attention is computed in, layer by layer.
using AttentionPlans = std::shared_ptr<const std::vector<AttentionPlan>>;
// `formats`: one for each layer.
AttentionPlans plan_attention(const Spec& spec, std::span<const AttentionFormats> formats);

// A KV cache: pages of 64 positions, each with the parts of all layers and heads, [layer][kv head] as
// kernels/abi/attention.h lays them out. A page is allocated when it is first needed and never moves, so growing copies
// nothing. Owned by whoever generates; one forward pass at a time may write to it.
//
// Where values are in blocks of positions, those of the last block, which is not complete, are at hand as bfloat16: as
// they are before the pass that is running (or is yet to come), and as that pass leaves them. So after a pass the
// sequence can go back to where it began.
class Sequence {
 public:
  Sequence(const Spec& spec, AttentionPlans plans);
  Sequence(const Spec& spec, CacheType type);  // floats in all layers, nothing rounded

  // Positions that are complete in all layers: the next token goes to position length().
  int64_t length() const { return length_; }
  int64_t max_positions() const { return max_positions_; }
  const AttentionPlan& plan(int64_t layer) const { return (*plans_)[static_cast<size_t>(layer)]; }
  int64_t bytes() const;  // allocated

  void clear();
  // Forgets what comes after `length`; does nothing when there is less. Returns the new length, which is less than
  // asked for where values are in blocks and the middle of a block that was complete is asked for: the numbers that it
  // was made of are gone, so the block goes too. Never so for the length before the last pass.
  int64_t truncate(int64_t length);
  // Room for `length` positions (at most max_positions()).
  void reserve(int64_t length);
  // `count` more positions have been stored in all layers.
  void advance(int64_t count);

  // Where the kernels find, and put, the keys and values of one head. Valid until the next reserve().
  CachedHead head(int64_t layer, int64_t kv_head);

 private:
  int64_t tail_size() const { return plans_layers() * kv_heads_ * tail_rows_ * value_stride_; }
  int64_t plans_layers() const { return static_cast<int64_t>(plans_->size()); }
  int64_t block_of(int64_t position) const { return position / tail_rows_ * tail_rows_; }

  AttentionPlans plans_;
  int64_t kv_heads_, value_stride_, max_positions_, length_ = 0;
  std::vector<int64_t> parts_;  // where in a page each layer's begin; then the bytes of a page
  std::vector<AlignedBuffer<std::byte>> buffers_;
  std::vector<std::byte*> pages_;  // their beginnings
  int64_t tail_rows_ = 1;          // positions of the largest block of values
  std::vector<uint16_t> tails_;  // two, [layer][kv head][tail_rows][value_stride], taken in turns; none without blocks
  int64_t tail_ = 0, before_ = -1;  // which of them goes with length_; the length that goes with the other, if any
};

// A run of new tokens of one sequence in a batch. A sequence occurs in at most one segment of a batch.
struct Segment {
  Sequence* sequence = nullptr;
  int64_t count = 0;     // tokens of this segment (rows of the hidden state, in order)
  int64_t position = 0;  // of its first token
};

int64_t tokens_of(std::span<const Segment> segments);

}  // namespace nibble
