#include "eval/tasks/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/python_random.h"
#include "measure/statistics.h"

namespace nibble {
namespace {

constexpr int64_t kBootstrapSamples = 100000;
constexpr std::array<std::string_view, 4> kChoiceMetrics = {"acc", "acc_norm", "acc_bytes", "acc_tokens"};
constexpr std::array<std::string_view, 2> kLastWordMetrics = {"acc", "perplexity"};

double characters_of(std::string_view text) {
  return static_cast<double>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

// Whether the right answer has the greatest quotient of log-likelihood and length(answer); the first of equals wins.
template <class Length>
double right_when_divided(const Item& item, std::span<const AnswerScore> scores, Length&& length) {
  size_t best = 0;
  double greatest = -INFINITY;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double value = scores[i].log_likelihood / length(i);
    if (i > 0 && value <= greatest) continue;
    best = i;
    greatest = value;
  }
  return static_cast<int64_t>(best) == item.gold ? 1 : 0;
}

}  // namespace

std::span<const std::string_view> metric_names(Scoring scoring) {
  switch (scoring) {
    case Scoring::choices: return kChoiceMetrics;
    case Scoring::plain: return std::span(kChoiceMetrics).first(1);
    case Scoring::last_word: break;
  }
  return kLastWordMetrics;
}

std::vector<double> judge(Scoring scoring, const Item& item, std::span<const AnswerScore> scores) {
  if (scoring == Scoring::last_word) return {scores[0].greedy ? 1.0 : 0.0, scores[0].log_likelihood};
  const double likeliest = right_when_divided(item, scores, [](size_t) { return 1.0; });
  if (scoring == Scoring::plain) return {likeliest};
  return {likeliest, right_when_divided(item, scores, [&](size_t i) { return characters_of(item.choice(i)); }),
          right_when_divided(item, scores, [&](size_t i) { return static_cast<double>(item.choice(i).size()); }),
          right_when_divided(item, scores, [&](size_t i) { return static_cast<double>(scores[i].tokens); })};
}

double bootstrap_error_of_perplexity(std::span<const double> log_likelihoods, int64_t samples, ThreadPool& pool) {
  constexpr int64_t kSamplesPerSeed = 1000;
  const auto items = static_cast<double>(log_likelihoods.size());
  std::vector<double> found(static_cast<size_t>(samples));
  pool.run(samples / kSamplesPerSeed, [&](int64_t seed) {
    PythonRandom random(static_cast<uint64_t>(seed));
    for (int64_t i = 0; i < kSamplesPerSeed; ++i) {
      double sum = 0;
      for (size_t k = 0; k < log_likelihoods.size(); ++k)
        sum += log_likelihoods[static_cast<size_t>(random.uniform() * items)];
      found[static_cast<size_t>(seed * kSamplesPerSeed + i)] = std::exp(-sum / items);
    }
  });
  return estimate_mean(found).standard_error * std::sqrt(static_cast<double>(samples));
}

std::vector<Metric> metrics_of(Scoring scoring, std::span<const std::vector<double>> judged, ThreadPool& pool) {
  std::vector<Metric> metrics;
  const auto names = metric_names(scoring);
  for (size_t m = 0; m < names.size(); ++m) {
    std::vector<double> values;
    for (const std::vector<double>& item : judged) values.push_back(item[m]);
    const Estimate mean = estimate_mean(values);
    Metric metric{names[m], mean.value, mean.standard_error};
    if (names[m] == "perplexity") {
      metric.value = std::exp(-mean.value);
      metric.standard_error = bootstrap_error_of_perplexity(values, kBootstrapSamples, pool);
    }
    if (judged.size() < 2) metric.standard_error.reset();
    metrics.push_back(metric);
  }
  return metrics;
}

}  // namespace nibble
