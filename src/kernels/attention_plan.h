// How one layer's attention is computed and its keys and values stored: number formats as the kernels want them.
#pragma once

#include <cstdint>

#include "format/attention_formats.h"
#include "kernels/abi/attention.h"

namespace nibble {

// The arguments of a kernel that rounds to this block format; x, y and count are for the caller to fill in.
RoundArgs rounding_of(const NumberFormat& format);

class AttentionPlan {
 public:
  // Formats that parse_attention_format accepts.
  explicit AttentionPlan(const AttentionFormats& formats, int64_t head_dim);

  const AttentionFormats& formats() const { return formats_; }
  CacheType type() const { return type_; }
  // Positions that share a value's scale; 0 where a query reads every value as it is stored.
  int64_t value_block() const { return value_.codes() ? value_.block : 0; }
  // The part of a page that one head takes, in bytes: a multiple of 64.
  int64_t part_bytes() const { return end_; }

  // That head, its part beginning `at` in every page. Valid while this is.
  CachedHead head(std::byte* const* pages, int64_t at) const;

 private:
  AttentionFormats formats_;
  CacheType type_ = CacheType::mixed;
  int64_t head_dim_, value_stride_;
  StoredFormat key_, value_;
  RoundArgs q_{}, p_{};
  int64_t values_ = 0, key_scales_ = 0, key_outers_ = 0, value_scales_ = 0, value_outers_ = 0, end_ = 0;
};

}  // namespace nibble
