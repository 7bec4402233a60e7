// A few rows of a site's input, at equal distances over all tokens of a text: what quantized layers are tried on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/buffer.h"

namespace nibble {

class RowSample {
 public:
  static constexpr int64_t kMostRows = 256;

  RowSample() = default;
  // `tokens` will be added in all; row i is token i * tokens / rows(), rounded down.
  RowSample(int64_t tokens, int64_t width)
      : tokens_(tokens), width_(width), rows_(std::min(tokens, kMostRows)), values_(rows_ * width) {}

  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }
  bool empty() const { return rows_ == 0; }
  const float* row(int64_t i) const { return values_.data() + i * width_; }  // the rows follow each other

  // The next tokens: x [count][width].
  void add(const float* x, int64_t count) {
    for (; taken_ < rows_ && taken_ * tokens_ / rows_ < seen_ + count; ++taken_)
      std::memcpy(values_.data() + taken_ * width_, x + (taken_ * tokens_ / rows_ - seen_) * width_,
                  static_cast<size_t>(width_) * sizeof(float));
    seen_ += count;
  }

 private:
  int64_t tokens_ = 0, width_ = 0, rows_ = 0;
  int64_t seen_ = 0, taken_ = 0;  // tokens, rows
  AlignedBuffer<float> values_;
};

}  // namespace nibble
