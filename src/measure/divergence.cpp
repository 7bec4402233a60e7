#include "measure/divergence.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/buffer.h"
#include "measure/rows.h"
#include "measure/softmax.h"
#include "measure/statistics.h"

namespace nibble {
namespace {

constexpr size_t kTop = 5;

// The most probable tokens, best first, ties to the lower id; -1 where there are fewer tokens.
using Top = std::array<int32_t, kTop>;

Top top_of(std::span<const float> logits) {
  constexpr size_t kBlock = 64;  // skipped when nothing in it is better than the last of the list
  Top top;
  top.fill(-1);
  const auto better = [&](int32_t a, int32_t b) {
    return b < 0 || logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  };
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const auto block = logits.subspan(begin, std::min(kBlock, logits.size() - begin));
    if (top.back() >= 0 && !(greatest_of(block) > logits[static_cast<size_t>(top.back())])) continue;
    for (size_t i = 0; i < block.size(); ++i) {
      const auto id = static_cast<int32_t>(begin + i);
      if (!better(id, top.back())) continue;
      size_t place = kTop - 1;
      for (; place > 0 && better(id, top[place - 1]); --place) top[place] = top[place - 1];
      top[place] = id;
    }
  }
  return top;
}

// The shared part of two lists, whose length is kTop or the vocabulary when that is smaller.
double overlap(const Top& a, const Top& b) {
  int shared = 0, length = 0;
  for (int32_t id : a) {
    if (id < 0) continue;
    ++length;
    shared += std::find(b.begin(), b.end(), id) != b.end();
  }
  return static_cast<double>(shared) / length;
}

template <class Value>
std::vector<double> each(std::span<const TokenDivergence> tokens, Value value) {
  std::vector<double> out;
  out.reserve(tokens.size());
  for (const TokenDivergence& token : tokens) out.push_back(static_cast<double>(value(token)));
  return out;
}

double probability_change_of(const TokenDivergence& token) {
  return std::exp(-token.candidate_nll) - std::exp(-token.reference_nll);
}

template <class Value>
Estimate mean_of_each(std::span<const TokenDivergence> tokens, Value value) {
  return estimate_mean(each(tokens, value));
}

Status expect_alike(const LogitSource& reference, const LogitSource& candidate, size_t number) {
  if (candidate.vocabulary() != reference.vocabulary())
    return fail(ErrorCode::corrupt, "candidate {} has a vocabulary of {} tokens, the reference one of {}", number,
                candidate.vocabulary(), reference.vocabulary());
  if (const auto difference = difference_of(reference.text(), candidate.text()))
    return fail(ErrorCode::corrupt, "candidate {} and the reference were not run on the same text: {}", number,
                *difference);
  return {};
}

}  // namespace

TokenDivergence token_divergence(std::span<const float> reference, std::span<const float> candidate, int32_t target) {
  const Softmax p = softmax_of(reference), q = softmax_of(candidate);
  const Top expected = top_of(reference), found = top_of(candidate);
  TokenDivergence out;
  out.kl = kl_divergence(reference, p, candidate, q);
  out.reference_nll = -p.log_of(reference[static_cast<size_t>(target)]);
  out.candidate_nll = -q.log_of(candidate[static_cast<size_t>(target)]);
  out.same_top1 = expected[0] == found[0];
  out.top5_overlap = overlap(expected, found);
  return out;
}

Divergence summarize(std::span<const TokenDivergence> tokens) {
  Divergence out;
  out.tokens = static_cast<int64_t>(tokens.size());
  if (tokens.empty()) return out;
  std::vector<double> kl = each(tokens, [](const auto& t) { return t.kl; });
  out.kl.assign(kl.begin(), kl.end());
  out.mean_kl = estimate_mean(kl);
  std::sort(kl.begin(), kl.end());
  out.median_kl = estimate_quantile(kl, 0.5);
  out.p99_kl = estimate_quantile(kl, 0.99);
  out.p999_kl = estimate_quantile(kl, 0.999);
  out.max_kl = kl.back();
  out.top1_agreement = mean_of_each(tokens, [](const auto& t) { return t.same_top1; });
  out.top5_agreement = mean_of_each(tokens, [](const auto& t) { return t.top5_overlap; });
  out.probability_change = mean_of_each(tokens, probability_change_of);
  out.rms_probability_change =
      std::sqrt(mean_of_each(tokens, [](const auto& t) { return std::pow(probability_change_of(t), 2); }).value);
  out.reference_perplexity = std::exp(mean_of_each(tokens, [](const auto& t) { return t.reference_nll; }).value);
  out.candidate_perplexity = std::exp(mean_of_each(tokens, [](const auto& t) { return t.candidate_nll; }).value);
  const Estimate worse = mean_of_each(tokens, [](const auto& t) { return t.candidate_nll - t.reference_nll; });
  out.perplexity_ratio.value = std::exp(worse.value);
  out.perplexity_ratio.standard_error = out.perplexity_ratio.value * worse.standard_error;
  return out;
}

Result<std::vector<Divergence>> compare_logits(LogitSource& reference, std::span<LogitSource* const> candidates,
                                               ThreadPool& pool, const ProgressCallback& progress,
                                               const std::function<Status(std::span<const float>)>& on_reference) {
  for (size_t i = 0; i < candidates.size(); ++i) NIBBLE_DO(expect_alike(reference, *candidates[i], i + 1));
  const std::vector<int32_t> targets = reference.text().targets();
  const auto total = static_cast<int64_t>(targets.size()), width = reference.vocabulary();
  std::vector<std::vector<TokenDivergence>> tokens(candidates.size(), std::vector<TokenDivergence>(targets.size()));
  AlignedBuffer<float> found(candidates.empty() ? 0 : rows_at_a_time(total, width) * width);
  const auto visit = [&](int64_t first, int64_t count, float* expected) -> Status {
    NIBBLE_DO(reference.read(count, expected));
    if (on_reference) NIBBLE_DO(on_reference({expected, static_cast<size_t>(count * width)}));
    for (size_t i = 0; i < candidates.size(); ++i) {
      NIBBLE_DO(candidates[i]->read(count, found.data()));
      pool.run(count, [&](int64_t row) {
        const auto at = static_cast<size_t>(first + row), size = static_cast<size_t>(width);
        tokens[i][at] =
            token_divergence({expected + row * width, size}, {found.data() + row * width, size}, targets[at]);
      });
    }
    return {};
  };
  NIBBLE_DO(for_each_chunk(total, width, progress, visit));
  std::vector<Divergence> out;
  for (const auto& of_candidate : tokens) out.push_back(summarize(of_candidate));
  return out;
}

}  // namespace nibble
