// How far are the candidate's predictions from the reference's, and is that far for its bit widths?
#include "measure/divergence.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "eval/verify/checks.h"
#include "measure/text.h"

namespace nibble {
namespace {

constexpr int64_t kFewestPredictions = 32;  // fewer say nothing

struct TextToCompare {
  ScoredText scored;
  std::string name;
};

// The runs that were drawn from the reference, each from an empty context.
Result<TextToCompare> drawn_text(Examination& examination) {
  NIBBLE_TRY(const SampledText* drawn, examination.reference_text({0, 0}));  // by now it is there, as a rule
  TextToCompare out;
  for (const SampledRun& run : drawn->runs) {
    out.scored.passages.push_back(
        {static_cast<int64_t>(out.scored.ids.size()), static_cast<int64_t>(run.ids.size()), run.start});
    out.scored.ids.insert(out.scored.ids.end(), run.ids.begin(), run.ids.end());
  }
  out.name = fmt::format("{} tokens drawn from the reference", drawn->drawn);
  return out;
}

Result<TextToCompare> text_to_compare(Examination& examination) {
  if (!examination.given) return drawn_text(examination);
  return TextToCompare{*examination.given, fmt::format("the text, windows of {}", examination.given->window)};
}

// Errors of what is read are noted as the reference's.
class ReferenceLogits final : public LogitSource {
 public:
  ReferenceLogits(const Model& model, const ScoredText& text, Examination& examination)
      : logits_(model, text, examination.pool), examination_(examination) {}
  const ScoredText& text() const override { return logits_.text(); }
  int64_t vocabulary() const override { return logits_.vocabulary(); }
  Status read(int64_t count, float* logits) override { return examination_.of_reference(logits_.read(count, logits)); }

 private:
  ModelLogits logits_;
  Examination& examination_;
};

DivergenceLimits limits_for(const VerifyOptions& options, const BitWidths& widths) {
  DivergenceLimits limits = default_limits(widths);
  limits.max_kl = options.max_kl.value_or(limits.max_kl);
  limits.min_agreement = options.min_agreement.value_or(limits.min_agreement);
  limits.max_perplexity_ratio = options.max_perplexity_ratio.value_or(limits.max_perplexity_ratio);
  return limits;
}

MeasuredDivergence measured(const Divergence& found, const std::string& text, const DivergenceLimits& limits) {
  MeasuredDivergence out;
  out.text = text;
  out.tokens = found.tokens;
  out.mean_kl = found.mean_kl.value;
  out.mean_kl_error = found.mean_kl.standard_error;
  out.agreement = found.top1_agreement.value;
  out.agreement_error = found.top1_agreement.standard_error;
  out.perplexity_ratio = found.perplexity_ratio.value;
  out.perplexity_ratio_error = found.perplexity_ratio.standard_error;
  out.reference_perplexity = found.reference_perplexity;
  out.candidate_perplexity = found.candidate_perplexity;
  out.limits = limits;
  return out;
}

std::string fault_of(const MeasuredDivergence& found) {
  const DivergenceLimits& limits = found.limits;
  if (!(found.mean_kl <= limits.max_kl))
    return fmt::format("the mean KL divergence is {:.4g} nats, allowed are {:.4g}", found.mean_kl, limits.max_kl);
  if (!(found.agreement >= limits.min_agreement))
    return fmt::format("the most probable token agrees in {:.2f} % of the places, expected are {:.2f} %",
                       100 * found.agreement, 100 * limits.min_agreement);
  if (!(found.perplexity_ratio <= limits.max_perplexity_ratio))
    return fmt::format("the perplexity is {:.4g} times the reference's, allowed is {:.4g}", found.perplexity_ratio,
                       limits.max_perplexity_ratio);
  return "";
}

std::string describe(const MeasuredDivergence& found) {
  return fmt::format(
      "mean KL {:.4g} +- {:.2g} (at most {:.4g}), agreement {:.2f} % (at least {:.2f} %), perplexity "
      "ratio {:.4f} (at most {:.4g}) over {} predictions of {}",
      found.mean_kl, found.mean_kl_error, found.limits.max_kl, 100 * found.agreement, 100 * found.limits.min_agreement,
      found.perplexity_ratio, found.limits.max_perplexity_ratio, found.tokens, found.text);
}

}  // namespace

Result<ScoredText> given_text(const std::string& text, const Opened& reference) {
  if (!reference.tokenizer)
    return fail(ErrorCode::usage, "{}: a text cannot be measured without a tokenizer",
                reference.source->folder().string());
  std::vector<int32_t> ids = reference.tokenizer->encode(text);
  const int64_t positions = reference.source->spec().max_positions;
  // As read_scored_text() does it, but a text shorter than that is one window.
  ProtocolOptions protocol;
  protocol.window = std::min({kLongestDefaultWindow, positions, static_cast<int64_t>(ids.size())});
  NIBBLE_TRY(ScoredText scored, scored_text(std::move(ids), protocol, positions));
  if (scored.predictions() < kFewestPredictions)
    return fail(ErrorCode::usage, "the text has {} predictions; at least {} are needed to judge a model by",
                scored.predictions(), kFewestPredictions);
  return scored;
}

Result<Finding> check_divergence(Examination& examination) {
  if (!examination.reference) return skipped("no reference");
  NIBBLE_TRY(const TextToCompare text, text_to_compare(examination));
  NIBBLE_TRY(const BitWidths widths, bit_widths_of(*examination.candidate.source));
  NIBBLE_TRY(const Model* reference, examination.reference_model());
  NIBBLE_TRY(const Model* candidate, examination.candidate_model());
  const auto begun = std::chrono::steady_clock::now();
  ReferenceLogits theirs(*reference, text.scored, examination);
  ModelLogits mine(*candidate, text.scored, examination.pool);
  const std::array<LogitSource*, 1> candidates = {&mine};
  NIBBLE_TRY(const std::vector<Divergence> found,
             compare_logits(theirs, candidates, examination.pool, [&](const Progress& progress) {
               examination.told("comparing predictions", progress.done);
             }));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  examination.divergence = measured(found[0], text.name, limits_for(examination.options, widths));
  std::string evidence = fmt::format("{}: {}", to_string(widths), describe(*examination.divergence));
  const std::string fault = fault_of(*examination.divergence);
  if (!fault.empty()) return failed(ErrorCode::verification, fault + " (" + evidence + ")");
  if (seconds > 0)
    evidence += fmt::format("; {:.0f} tokens/s", 2 * static_cast<double>(text.scored.tokens_run()) / seconds);
  return passed(evidence);
}

}  // namespace nibble
