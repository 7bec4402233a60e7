#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

namespace nibble {
namespace {

bool likelier(const std::pair<double, int32_t>& a, const std::pair<double, int32_t>& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

}  // namespace

int32_t Sampler::next(std::span<const float> logits) {
  if (options_.temperature <= 0) return greedy(logits);
  rank(logits);
  keep_top_p();
  keep_min_p();
  return draw();
}

int32_t Sampler::greedy(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Candidates with probabilities up to a common factor, the greatest being 1, sorted; at most top_k of them.
void Sampler::rank(std::span<const float> logits) {
  const double greatest = *std::max_element(logits.begin(), logits.end());
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    candidates_.emplace_back(std::exp((logits[i] - greatest) / options_.temperature), static_cast<int32_t>(i));
  const size_t count =
      options_.top_k > 0 ? std::min(candidates_.size(), static_cast<size_t>(options_.top_k)) : candidates_.size();
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(count), candidates_.end(),
                    likelier);
  candidates_.resize(count);
}

double Sampler::total() const {
  double sum = 0;
  for (const auto& candidate : candidates_) sum += candidate.first;
  return sum;
}

// The shortest run of the likeliest whose probabilities reach top_p.
void Sampler::keep_top_p() {
  if (options_.top_p >= 1) return;
  const double enough = options_.top_p * total();
  size_t count = 0;
  for (double sum = 0; count < candidates_.size() && (count == 0 || sum < enough); ++count)
    sum += candidates_[count].first;
  candidates_.resize(count);
}

void Sampler::keep_min_p() {
  auto unlikely = [&](const auto& candidate) { return candidate.first < options_.min_p; };
  const auto end = std::find_if(candidates_.begin() + 1, candidates_.end(), unlikely);
  candidates_.erase(end, candidates_.end());
}

int32_t Sampler::draw() {
  const double point = static_cast<double>(random_.next() >> 11) * 0x1p-53 * total();
  double sum = 0;
  for (const auto& candidate : candidates_)
    if ((sum += candidate.first) > point) return candidate.second;
  return candidates_.back().second;
}

}  // namespace nibble
