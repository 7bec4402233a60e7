// From likelihoods to accuracies, as lm-evaluation-harness computes them.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/threads.h"
#include "eval/tasks/score.h"
#include "eval/tasks/task.h"

namespace nibble {

struct Metric {
  std::string_view name;
  double value = 0;
  std::optional<double> standard_error;  // none for a single item
};

// The names of a task's metrics, in order:
//   acc         the right answer is the likeliest (of equals the first counts); last_word: the answer is greedy
//   acc_norm    the same, log-likelihoods divided by the answer's length in characters (code points)
//   acc_bytes   ... in bytes of UTF-8
//   acc_tokens  ... in tokens
//   perplexity  exp of the mean negative log-likelihood of an answer, all its tokens together
// The single space before an answer counts in none of the lengths.
std::span<const std::string_view> metric_names(Scoring scoring);

// What each metric is the mean of, for one item, in the order of metric_names: 1 or 0; for perplexity the
// log-likelihood.
std::vector<double> judge(Scoring scoring, const Item& item, std::span<const AnswerScore> scores);

// The means over items, with sample standard deviation / sqrt(items) as error. The perplexity is exp of the negative
// mean log-likelihood, its error the standard deviation over the harness's 100000 bootstrap samples of the items, drawn
// with its seeds. `judged`: one judge() per item, at least one.
std::vector<Metric> metrics_of(Scoring scoring, std::span<const std::vector<double>> judged, ThreadPool& pool);

// The perplexity of each of `samples` sets of items drawn with replacement, 1000 to a seed, the seeds ascending from 0;
// returns their sample standard deviation. samples: a multiple of 1000.
double bootstrap_error_of_perplexity(std::span<const double> log_likelihoods, int64_t samples, ThreadPool& pool);

}  // namespace nibble
