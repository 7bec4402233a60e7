// How well a model predicts a text: the mean negative log-likelihood of its predicted tokens.
#pragma once

#include <cstdint>

#include "core/progress.h"
#include "core/result.h"
#include "core/threads.h"
#include "measure/logits.h"
#include "measure/softmax.h"

namespace nibble {

struct Likelihood {
  double nll = 0;             // mean negative log-likelihood, nats per predicted token
  double standard_error = 0;  // of the mean, tokens taken as independent
  int64_t tokens = 0;         // predicted
  int64_t windows = 0;        // passages
  int64_t tokens_run = 0;     // through the model
  double seconds = 0;
  double perplexity() const;  // exp(nll)
  double rate() const;        // tokens run per second
};

// `logits` must be at its beginning. Logits are in memory a few rows at a time, which changes nothing in the result:
// sums are in float64 and in token order. Errors: those of LogitSource::read.
Result<Likelihood> score(LogitSource& logits, ThreadPool& pool, const ProgressCallback& progress = {});
Result<Likelihood> score(const Model& model, const ScoredText& text, ThreadPool& pool,
                         const ProgressCallback& progress = {});

}  // namespace nibble
