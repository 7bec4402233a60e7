// Does the model write text, or noise, or one token over and over?
#include "eval/verify/checks.h"
#include "eval/verify/text_shape.h"

namespace nibble {
namespace {

std::string describe(const TextShape& shape) {
  return fmt::format("commonest token {:.1f} %, distinct pairs {:.1f} %, periodic {:.1f} %, entropy {:.3f} of log V",
                     100 * shape.commonest, 100 * shape.distinct_bigrams, 100 * shape.periodic, shape.entropy);
}

}  // namespace

Result<Finding> check_generation(Examination& examination) {
  if (examination.candidate.source->spec().max_positions < 8) return skipped("the model has fewer than 8 positions");
  const int64_t vocabulary = examination.candidate.source->spec().vocabulary;
  NIBBLE_TRY(const SampledText* text, examination.candidate_text({0, examination.reference ? 0.5 : 1}));
  const TextShape found = text_shape(*text, vocabulary);
  std::string evidence = fmt::format("{} tokens drawn at temperature 1: {}", text->drawn, describe(found));
  TextShape limit = kShapeAlone;
  if (examination.reference) {
    NIBBLE_TRY(const SampledText* original, examination.reference_text({0.5, 1}));
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
