#include "measure/likelihood.h"

#include <chrono>
#include <cmath>
#include <vector>

#include "measure/rows.h"
#include "measure/statistics.h"

namespace nibble {

double Likelihood::perplexity() const { return std::exp(nll); }
double Likelihood::rate() const { return seconds > 0 ? static_cast<double>(tokens_run) / seconds : 0; }

Result<Likelihood> score(LogitSource& logits, ThreadPool& pool, const ProgressCallback& progress) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<int32_t> targets = logits.text().targets();
  const auto total = static_cast<int64_t>(targets.size()), width = logits.vocabulary();
  std::vector<double> losses(targets.size());
  const auto visit = [&](int64_t first, int64_t count, float* rows) -> Status {
    NIBBLE_DO(logits.read(count, rows));
    pool.run(count, [&](int64_t row) {
      const auto at = static_cast<size_t>(first + row);
      losses[at] = negative_log_likelihood({rows + row * width, static_cast<size_t>(width)}, targets[at]);
    });
    return {};
  };
  NIBBLE_DO(for_each_chunk(total, width, progress, visit));
  const Estimate mean = estimate_mean(losses);
  Likelihood out{mean.value, mean.standard_error, total};
  out.windows = static_cast<int64_t>(logits.text().passages.size());
  out.tokens_run = logits.text().tokens_run();
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

Result<Likelihood> score(const Model& model, const ScoredText& text, ThreadPool& pool,
                         const ProgressCallback& progress) {
  ModelLogits logits(model, text, pool);
  return score(logits, pool, progress);
}

}  // namespace nibble
