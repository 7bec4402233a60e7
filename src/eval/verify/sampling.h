// Text drawn from a model at temperature 1: what it would write, and what it is compared on when nobody gives a text.
//
// Small honest models repeat themselves under greedy decoding, so nothing is judged on that.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/result.h"
#include "core/threads.h"
#include "runtime/model.h"

namespace nibble {

struct SamplingPlan {
  int64_t sequences = 8;  // drawn side by side
  int64_t tokens = 64;    // of each, fewer when the model has not that many positions
  uint64_t seed = 0;      // of the first sequence; the others count on
};

// A stretch of text from an empty context: `start` given tokens, then drawn ones.
struct SampledRun {
  std::vector<int32_t> ids;
  int64_t start = 0;
};

struct SampledText {
  std::vector<SampledRun> runs;  // by sequence, in order
  int64_t drawn = 0;             // tokens
  double mean_entropy = 0;       // of the predictions that were drawn from, nats
  double seconds = 0;
  std::vector<int32_t> drawn_tokens() const;
};

// Every sequence begins with `start`. After a token of `end_tokens` it begins anew (as another run). The same seed
// gives the same text whatever the threads. `told`: gets the part that is done. `usage` when `start` is empty or leaves
// no position to draw for.
Result<SampledText> sample_text(const Model& model, std::span<const int32_t> start, std::span<const int32_t> end_tokens,
                                const SamplingPlan& plan, ThreadPool& pool,
                                const std::function<void(double)>& told = {});

}  // namespace nibble
