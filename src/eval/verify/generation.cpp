// Does the model write text, or noise, or one token over and over?
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "eval/verify/checks.h"

namespace nibble {
namespace {

// What a text drawn at temperature 1 looks like.
struct TextShape {
  double commonest = 0;         // share of the most frequent token
  double distinct_bigrams = 1;  // of all pairs of neighbours
  double periodic = 0;          // share of tokens inside repetitions of up to kLongestPeriod tokens
  double entropy = 0;           // mean of the predictions, over log of the vocabulary: 1 is noise
};

constexpr size_t kLongestPeriod = 16;
constexpr size_t kShortestRepetition = 24;  // tokens that repeat what came a period before them

// Limits without a reference, and what a reference's own text adds to them.
constexpr TextShape kAlone{0.5, 0.15, 0.5, 0.97};
constexpr double kCommonestMargin = 0.15, kDistinctShare = 0.5, kPeriodicMargin = 0.2;
constexpr double kEntropyRatio = 1.5;

double commonest_of(const std::vector<int32_t>& ids) {
  std::map<int32_t, int64_t> counts;
  int64_t most = 0;
  for (int32_t id : ids) most = std::max(most, ++counts[id]);
  return ids.empty() ? 0 : static_cast<double>(most) / static_cast<double>(ids.size());
}

// Tokens of a run that lie in a stretch which repeats itself.
int64_t periodic_in(std::span<const int32_t> ids) {
  std::vector<uint8_t> marked(ids.size(), 0);
  for (size_t period = 1; period <= kLongestPeriod; ++period) {
    size_t length = 0;
    for (size_t i = period; i <= ids.size(); ++i) {
      if (i < ids.size() && ids[i] == ids[i - period]) {
        ++length;
        continue;
      }
      if (length >= kShortestRepetition)
        std::fill_n(marked.begin() + static_cast<std::ptrdiff_t>(i - length), length, 1);
      length = 0;
    }
  }
  return std::count(marked.begin(), marked.end(), 1);
}

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

// An honest model's text may be as monotonous as its original's.
TextShape limits_beside(const TextShape& reference) {
  TextShape out = kAlone;
  out.commonest = std::max(kAlone.commonest, reference.commonest + kCommonestMargin);
  out.distinct_bigrams = std::min(kAlone.distinct_bigrams, kDistinctShare * reference.distinct_bigrams);
  out.periodic = std::max(kAlone.periodic, reference.periodic + kPeriodicMargin);
  out.entropy = std::clamp(kEntropyRatio * reference.entropy, reference.entropy, 1.0);
  return out;
}

std::string describe(const TextShape& shape) {
  return fmt::format("commonest token {:.1f} %, distinct pairs {:.1f} %, periodic {:.1f} %, entropy {:.3f} of log V",
                     100 * shape.commonest, 100 * shape.distinct_bigrams, 100 * shape.periodic, shape.entropy);
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

}  // namespace

Result<Finding> check_generation(Examination& examination) {
  if (examination.candidate.source->spec().max_positions < 8) return skipped("the model has fewer than 8 positions");
  const int64_t vocabulary = examination.candidate.source->spec().vocabulary;
  NIBBLE_TRY(const SampledText* text, examination.candidate_text());
  const TextShape found = text_shape(*text, vocabulary);
  std::string evidence = fmt::format("{} tokens drawn at temperature 1: {}", text->drawn, describe(found));
  TextShape limit = kAlone;
  if (examination.reference) {
    NIBBLE_TRY(const SampledText* original, examination.reference_text());
    const TextShape reference = text_shape(*original, vocabulary);
    limit = limits_beside(reference);
    evidence += fmt::format("; the reference's: {}", describe(reference));
  }
  const std::string fault = fault_of(found, limit);
  if (!fault.empty()) return failed(ErrorCode::verification, fault + " (" + evidence + ")");
  if (text->seconds > 0) evidence += fmt::format("; {:.0f} tokens/s", static_cast<double>(text->drawn) / text->seconds);
  return passed(evidence);
}

}  // namespace nibble
