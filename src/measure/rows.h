// Walks over the predicted tokens of a text with a few rows of logits in memory at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/buffer.h"
#include "core/progress.h"
#include "core/result.h"

namespace nibble {

// How many of `total` rows [vocabulary] to hold at a time: at most 16 MB of them, but one at least.
inline int64_t rows_at_a_time(int64_t total, int64_t vocabulary) {
  constexpr int64_t kLogits = int64_t{1} << 22, kMostRows = 1024;
  return std::min(total, std::clamp<int64_t>(kLogits / vocabulary, 1, kMostRows));
}

// Of `count` rows [vocabulary], the first that holds something that is not finite, or -1. A model's own message counts
// from where its caller's chunk begins, which means nothing to a user: who knows what a row predicts says that.
inline int64_t row_not_finite(const float* rows, int64_t count, int64_t vocabulary) {
  const auto finite = [](float x) { return std::isfinite(x); };
  for (int64_t row = 0; row < count; ++row)
    if (!std::all_of(rows + row * vocabulary, rows + (row + 1) * vocabulary, finite)) return row;
  return -1;
}

// Calls visit(first, count, rows) for all tokens in order; `rows` is memory for [count][vocabulary], for visit to fill.
template <class Visit>
Status for_each_chunk(int64_t total, int64_t vocabulary, const ProgressCallback& progress, Visit&& visit) {
  const int64_t most = rows_at_a_time(total, vocabulary);
  AlignedBuffer<float> rows(most * vocabulary);
  ProgressMeter meter(static_cast<double>(total), progress);
  for (int64_t first = 0; first < total; first += most) {
    const int64_t count = std::min(most, total - first);
    NIBBLE_DO(visit(first, count, rows.data()));
    meter.advance(static_cast<double>(count), fmt::format("token {} of {}", first + count, total));
  }
  return {};
}

}  // namespace nibble
