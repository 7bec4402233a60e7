// Is a model fit to be used? One verdict with its reasons.
#pragma once

#include <nibble/language_model.h>
#include <nibble/progress.h>
#include <nibble/result.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

struct VerifyRequest {
  std::filesystem::path candidate;
  std::filesystem::path reference;  // the original; empty: only what needs no original is checked
  // That divergence is measured on, by windows of min(2048, the reference's positions, the text) that do not overlap,
  // the incomplete last one dropped; empty: text drawn from the reference itself.
  std::string text;
  // Limits; default: by the candidate's bit widths (docs/evidence.md).
  std::optional<double> max_kl, min_agreement, max_perplexity_ratio;
  LoadOptions load;
  ProgressCallback progress;
};

enum class Outcome { passed, failed, skipped };
std::string_view name_of(Outcome outcome);  // "passed", ...

struct Check {
  // "files", "tensors", "weights", "tokenizer", "fingerprint", "generation", "divergence"
  std::string name;
  Outcome outcome = Outcome::passed;
  std::string evidence;  // what was found, with numbers; for a skipped one, why
};

// How far the candidate's predictions are from the reference's, and how far they may be.
struct DivergenceFound {
  std::string text;  // what was predicted
  int64_t tokens = 0;
  double mean_kl = 0, mean_kl_error = 0;  // nats per token; errors are standard errors, tokens taken as independent
  double top1_agreement = 0, top1_agreement_error = 0;      // fraction
  double perplexity_ratio = 0, perplexity_ratio_error = 0;  // candidate / reference
  double reference_perplexity = 0, candidate_perplexity = 0;
  double max_kl = 0, min_agreement = 0, max_perplexity_ratio = 0;  // the limits
};

struct Verdict {
  bool passed = false;
  // Of a failed one: `corrupt` when files are damaged or contradict each other, else `verification`.
  ErrorCode code = ErrorCode::verification;
  std::string reason;                         // one line, beginning with the name of the check; empty when all passed
  std::vector<Check> checks;                  // in the order in which they ran
  std::optional<DivergenceFound> divergence;  // with a reference, unless the files were corrupt
};

// A model that cannot be opened, or is another model than the reference, is a failed verdict too; what is corrupt ends
// the checks. Errors: `usage` for impossible options (also a text or limits without a reference, and
// LoadOptions::weights) and a text too short to judge by, and whatever stops the checking itself (`io` for a folder
// that does not exist, a reference that cannot be opened, `unsupported`, `resources`). With a reference both models are
// in memory.
Result<Verdict> verify(const VerifyRequest& request);

}  // namespace nibble
