// How well a model predicts a text: the windows protocol of the GPTQ papers.
#pragma once

#include <cstdint>
#include <span>

#include "core/progress.h"
#include "core/result.h"
#include "core/threads.h"
#include "runtime/model.h"

namespace nibble {

struct Likelihood {
  double nll = 0;             // mean negative log-likelihood, nats per predicted token
  double standard_error = 0;  // of the mean, tokens taken as independent
  int64_t tokens = 0;         // predicted
  int64_t windows = 0;
  double seconds = 0;
  double perplexity() const;  // exp(nll)
};

// The ids are cut into windows of `window` tokens that do not overlap; the incomplete last one is dropped; each gives
// window - 1 predictions. Windows are run several at a time and logits made a few rows at a time, which bounds memory
// and changes nothing in the result: sums are in float64 and in token order.
// `usage` error when the ids do not fill one window, or a window is shorter than 2 or longer than the model's
// positions; otherwise the errors of Model::forward.
Result<Likelihood> score_windows(const Model& model, std::span<const int32_t> ids, int64_t window, ThreadPool& pool,
                                 const ProgressCallback& progress = {});

// -log softmax(logits)[target], in float64.
double negative_log_likelihood(std::span<const float> logits, int32_t target);

}  // namespace nibble
