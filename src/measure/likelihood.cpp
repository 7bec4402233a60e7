#include "measure/likelihood.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

namespace nibble {
namespace {

// Tokens in one forward pass (at least one window), and logits in memory at a time (at least one row).
constexpr int64_t kBatchTokens = 1024;
constexpr int64_t kLogits = int64_t{1} << 22;

// Runs windows in batches and keeps the loss of every predicted token, in token order.
class WindowScorer {
 public:
  WindowScorer(const Model& model, std::span<const int32_t> ids, int64_t window, ThreadPool& pool)
      : model_(model), ids_(ids), window_(window), pool_(pool) {
    const int64_t batch = std::max<int64_t>(1, kBatchTokens / window);
    for (int64_t i = 0; i < std::min(batch, windows()); ++i) sequences_.push_back(model.new_sequence());
    rows_ = std::clamp<int64_t>(kLogits / model.spec().vocabulary, 1, kBatchTokens);
    logits_ = AlignedBuffer<float>(rows_ * model.spec().vocabulary);
    losses_.reserve(static_cast<size_t>(windows() * (window - 1)));
  }

  int64_t windows() const { return static_cast<int64_t>(ids_.size()) / window_; }
  const std::vector<double>& losses() const { return losses_; }

  Status score(const ProgressCallback& progress) {
    ProgressMeter meter(static_cast<double>(windows()), progress);
    for (int64_t first = 0; first < windows();) {
      const int64_t count = std::min(static_cast<int64_t>(sequences_.size()), windows() - first);
      NIBBLE_DO(score_batch(first, count));
      first += count;
      meter.advance(static_cast<double>(count), fmt::format("window {} of {}", first, windows()));
    }
    return {};
  }

 private:
  Status score_batch(int64_t first, int64_t count) {
    std::vector<Segment> segments;
    for (int64_t i = 0; i < count; ++i) {
      Sequence& sequence = sequences_[static_cast<size_t>(i)];
      sequence.clear();
      segments.push_back({&sequence, window_, 0});
    }
    const auto tokens = ids_.subspan(static_cast<size_t>(first * window_), static_cast<size_t>(count * window_));
    NIBBLE_DO(model_.run_blocks(tokens, segments, workspace_, pool_));
    for (int64_t i = 0; i < count; ++i)
      NIBBLE_DO(score_window(tokens.subspan(static_cast<size_t>(i * window_), static_cast<size_t>(window_)),
                             workspace_.hidden.data() + i * window_ * model_.spec().hidden));
    return {};
  }

  // All tokens but the first are predicted, by the rows [window - 1][hidden] before them.
  Status score_window(std::span<const int32_t> tokens, const float* hidden) {
    for (int64_t row = 0; row < window_ - 1; row += rows_) {
      const int64_t count = std::min(rows_, window_ - 1 - row);
      NIBBLE_DO(model_.logits_of(hidden + row * model_.spec().hidden, count, logits_.data(), workspace_, pool_));
      add_losses(tokens.subspan(static_cast<size_t>(row + 1), static_cast<size_t>(count)));
    }
    return {};
  }

  void add_losses(std::span<const int32_t> targets) {
    const size_t at = losses_.size(), width = static_cast<size_t>(model_.spec().vocabulary);
    losses_.resize(at + targets.size());
    pool_.run(static_cast<int64_t>(targets.size()), [&](int64_t row) {
      const auto i = static_cast<size_t>(row);
      losses_[at + i] = negative_log_likelihood({logits_.data() + i * width, width}, targets[i]);
    });
  }

  const Model& model_;
  std::span<const int32_t> ids_;
  int64_t window_, rows_ = 0;
  ThreadPool& pool_;
  Workspace workspace_;
  std::vector<Sequence> sequences_;
  AlignedBuffer<float> logits_;
  std::vector<double> losses_;
};

double mean_of(std::span<const double> values) {
  double sum = 0;
  for (double x : values) sum += x;
  return sum / static_cast<double>(values.size());
}

double standard_error_of(std::span<const double> values, double mean) {
  double sum = 0;
  for (double x : values) sum += (x - mean) * (x - mean);
  const auto n = static_cast<double>(values.size());
  return n > 1 ? std::sqrt(sum / (n - 1) / n) : 0;
}

Status check_window(const Spec& spec, int64_t ids, int64_t window) {
  if (window < 2) return fail(ErrorCode::usage, "a window of {} tokens predicts nothing; it takes at least 2", window);
  if (window > spec.max_positions)
    return fail(ErrorCode::usage, "a window of {} tokens does not fit the model's {} positions", window,
                spec.max_positions);
  if (ids < window)
    return fail(ErrorCode::usage, "the text has {} tokens, which do not fill one window of {}", ids, window);
  return {};
}

}  // namespace

double Likelihood::perplexity() const { return std::exp(nll); }

double negative_log_likelihood(std::span<const float> logits, int32_t target) {
  const double greatest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - greatest);
  return std::log(sum) - (logits[static_cast<size_t>(target)] - greatest);
}

Result<Likelihood> score_windows(const Model& model, std::span<const int32_t> ids, int64_t window, ThreadPool& pool,
                                 const ProgressCallback& progress) {
  const auto start = std::chrono::steady_clock::now();
  NIBBLE_DO(check_window(model.spec(), static_cast<int64_t>(ids.size()), window));
  WindowScorer scorer(model, ids, window, pool);
  NIBBLE_DO(scorer.score(progress));
  Likelihood out;
  out.nll = mean_of(scorer.losses());
  out.standard_error = standard_error_of(scorer.losses(), out.nll);
  out.tokens = static_cast<int64_t>(scorer.losses().size());
  out.windows = scorer.windows();
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

}  // namespace nibble
