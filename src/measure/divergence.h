// How far the predictions of a candidate model are from those of a reference, token by token of a text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/progress.h"
#include "core/result.h"
#include "core/threads.h"
#include "measure/logits.h"
#include "measure/statistics.h"

namespace nibble {

// p: reference, q: candidate, both softmax over the vocabulary, in float64.
struct TokenDivergence {
  double kl = 0;             // sum of p log(p / q), nats; never negative
  double reference_nll = 0;  // -log p(true token)
  double candidate_nll = 0;  // -log q(true token)
  bool same_top1 = false;    // the most probable token is the same (ties to the lower id)
  double top5_overlap = 0;   // shared part of the five most probable tokens: 0, 0.2, .. 1
};
TokenDivergence token_divergence(std::span<const float> reference, std::span<const float> candidate, int32_t target);

struct Divergence {
  int64_t tokens = 0;
  Estimate mean_kl, median_kl, p99_kl, p999_kl;  // quantiles: errors from order statistics
  double max_kl = 0;
  Estimate top1_agreement, top5_agreement;  // fractions
  Estimate probability_change;              // mean of q(true) - p(true)
  double rms_probability_change = 0;
  double reference_perplexity = 0, candidate_perplexity = 0;
  Estimate perplexity_ratio;  // candidate / reference, error from the paired differences
  std::vector<float> kl;      // by token
};
Divergence summarize(std::span<const TokenDivergence> tokens);

// Compares candidates with a reference in one pass. All sources must be at their beginning and on equal texts with
// equal vocabularies, else `corrupt` naming what differs. `on_reference`: gets the reference's rows as they pass, to
// store them; may be empty.
Result<std::vector<Divergence>> compare_logits(LogitSource& reference, std::span<LogitSource* const> candidates,
                                               ThreadPool& pool, const ProgressCallback& progress = {},
                                               const std::function<Status(std::span<const float>)>& on_reference = {});

}  // namespace nibble
