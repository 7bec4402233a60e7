#include "runtime/sequence.h"

#include <algorithm>

#include "core/checked.h"
#include "core/result.h"

namespace nibble {
namespace {

AttentionPlans floats_everywhere(const Spec& spec, CacheType type) {
  AttentionFormats formats;
  formats.k.levels = type == CacheType::f32 ? Levels::f32 : type == CacheType::f16 ? Levels::f16 : Levels::bf16;
  formats.k.bits = type == CacheType::f32 ? 32 : 16;
  formats.v = formats.k;
  return plan_attention(spec, std::vector<AttentionFormats>(static_cast<size_t>(spec.layers), formats));
}

}  // namespace

AttentionPlans plan_attention(const Spec& spec, std::span<const AttentionFormats> formats) {
  std::vector<AttentionPlan> plans;
  plans.reserve(formats.size());
  for (const AttentionFormats& layer : formats) plans.emplace_back(layer, spec.head_dim);
  return std::make_shared<const std::vector<AttentionPlan>>(std::move(plans));
}

Sequence::Sequence(const Spec& spec, CacheType type) : Sequence(spec, floats_everywhere(spec, type)) {}

Sequence::Sequence(const Spec& spec, AttentionPlans plans)
    : plans_(std::move(plans)),
      kv_heads_(spec.kv_heads),
      value_stride_(round_up(spec.head_dim, kKeyPanel)),
      max_positions_(spec.max_positions),
      parts_(1) {
  bool blocks = false;
  for (const AttentionPlan& plan : *plans_) {
    parts_.push_back(parts_.back() + kv_heads_ * plan.part_bytes());
    tail_rows_ = std::max(tail_rows_, plan.value_block());
    blocks = blocks || plan.value_block() > 0;
  }
  if (blocks) tails_.resize(static_cast<size_t>(2 * tail_size()));
}

int64_t Sequence::bytes() const {
  return static_cast<int64_t>(pages_.size()) * parts_.back() + static_cast<int64_t>(tails_.size() * sizeof(uint16_t));
}

void Sequence::clear() {
  length_ = 0;
  before_ = -1;
}

void Sequence::advance(int64_t count) {
  if (count == 0) return;
  before_ = length_;
  length_ += count;
  tail_ = 1 - tail_;
}

int64_t Sequence::truncate(int64_t length) {
  if (length >= length_) return length_;
  if (!tails_.empty() && length < block_of(length_)) {
    if (before_ >= length && length >= block_of(before_)) {
      tail_ = 1 - tail_;
    } else {
      length = block_of(length);
    }
    before_ = -1;
  }
  return length_ = length;
}

void Sequence::reserve(int64_t length) {
  NIBBLE_CHECK(length <= max_positions_);
  while (static_cast<int64_t>(pages_.size()) * kPagePositions < length) {
    buffers_.emplace_back(parts_.back());
    pages_.push_back(buffers_.back().data());
  }
}

CachedHead Sequence::head(int64_t layer, int64_t kv_head) {
  const AttentionPlan& plan = this->plan(layer);
  CachedHead head = plan.head(pages_.data(), parts_[static_cast<size_t>(layer)] + kv_head * plan.part_bytes());
  if (plan.value_block() == 0) return head;
  // What is written to is the part that no reader of this sequence has yet.
  uint16_t* const tails = tails_.data() + (layer * kv_heads_ + kv_head) * tail_rows_ * value_stride_;
  head.tail = tails + tail_ * tail_size();
  head.next_tail = tails + (1 - tail_) * tail_size();
  head.tail_rows = tail_rows_;
  return head;
}

int64_t tokens_of(std::span<const Segment> segments) {
  int64_t count = 0;
  for (const Segment& segment : segments) count += segment.count;
  return count;
}

}  // namespace nibble
