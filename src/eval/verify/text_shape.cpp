#include "eval/verify/text_shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace nibble {
namespace {

// What a reference's own text adds to the limits.
constexpr double kCommonestMargin = 0.15, kDistinctShare = 0.5, kPeriodicMargin = 0.2;
constexpr double kEntropyRatio = 1.5, kLeastEntropyLimit = 0.5;

double commonest_of(const std::vector<int32_t>& ids) {
  std::map<int32_t, int64_t> counts;
  int64_t most = 0;
  for (int32_t id : ids) most = std::max(most, ++counts[id]);
  return ids.empty() ? 0 : static_cast<double>(most) / static_cast<double>(ids.size());
}

// Tokens of a run that lie in a stretch which repeats itself.
int64_t periodic_in(std::span<const int32_t> ids) {
  std::vector<uint8_t> marked(ids.size(), 0);
  for (size_t period = 1; period <= size_t{kLongestPeriod}; ++period) {
    size_t length = 0;
    for (size_t i = period; i <= ids.size(); ++i) {
      if (i < ids.size() && ids[i] == ids[i - period]) {
        ++length;
        continue;
      }
      if (length >= size_t{kShortestRepetition})
        std::fill_n(marked.begin() + static_cast<std::ptrdiff_t>(i - length), length, 1);
      length = 0;
    }
  }
  return std::count(marked.begin(), marked.end(), 1);
}

}  // namespace

TextShape text_shape(const SampledText& text, int64_t vocabulary) {
  TextShape out;
  out.commonest = commonest_of(text.drawn_tokens());
  std::set<std::pair<int32_t, int32_t>> bigrams;
  int64_t pairs = 0, periodic = 0;
  for (const SampledRun& run : text.runs) {
    const auto drawn = std::span(run.ids).subspan(static_cast<size_t>(run.start));
    periodic += periodic_in(drawn);
    for (size_t i = 1; i < drawn.size(); ++i, ++pairs) bigrams.insert({drawn[i - 1], drawn[i]});
  }
  if (pairs > 0) out.distinct_bigrams = static_cast<double>(bigrams.size()) / static_cast<double>(pairs);
  if (text.drawn > 0) out.periodic = static_cast<double>(periodic) / static_cast<double>(text.drawn);
  if (vocabulary > 1) out.entropy = text.mean_entropy / std::log(static_cast<double>(vocabulary));
  return out;
}

TextShape limits_beside(const TextShape& reference) {
  TextShape out = kShapeAlone;
  out.commonest = std::max(kShapeAlone.commonest, reference.commonest + kCommonestMargin);
  out.distinct_bigrams = std::min(kShapeAlone.distinct_bigrams, kDistinctShare * reference.distinct_bigrams);
  out.periodic = std::max(kShapeAlone.periodic, reference.periodic + kPeriodicMargin);
  // A reference that knows only one text does not ask that of the candidate.
  out.entropy = std::clamp(kEntropyRatio * reference.entropy, kLeastEntropyLimit, 1.0);
  return out;
}

std::string fault_of(const TextShape& found, const TextShape& limit) {
  if (found.commonest > limit.commonest)
    return fmt::format("one token makes up {:.1f} % of the text, allowed are {:.1f} %", 100 * found.commonest,
                       100 * limit.commonest);
  if (found.periodic > limit.periodic)
    return fmt::format("{:.1f} % of the text repeats itself, allowed are {:.1f} %", 100 * found.periodic,
                       100 * limit.periodic);
  if (found.distinct_bigrams < limit.distinct_bigrams)
    return fmt::format("only {:.1f} % of the pairs of tokens are distinct, expected at least {:.1f} %",
                       100 * found.distinct_bigrams, 100 * limit.distinct_bigrams);
  if (found.entropy > limit.entropy)
    return fmt::format("predictions have {:.3f} of the entropy of noise, allowed are {:.3f}", found.entropy,
                       limit.entropy);
  return "";
}

}  // namespace nibble
