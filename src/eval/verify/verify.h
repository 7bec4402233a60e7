// Is a model fit to be used? A list of checks (checks.h) over what is in its folder and what it predicts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/result.h"
#include "core/threads.h"
#include "eval/verify/limits.h"
#include "model/spec.h"
#include "runtime/sequence.h"

namespace nibble {

struct VerifyOptions {
  std::filesystem::path candidate;
  std::filesystem::path reference;  // empty: only what needs no original is checked
  std::string text;                 // that divergence is measured on, by windows; empty: drawn from the reference
  std::optional<double> max_kl, min_agreement, max_perplexity_ratio;  // instead of the limits by bit width
  std::optional<std::string> cache;  // of keys and values (Model::Options); default: as each model says, else f32
  ProgressCallback progress;
};

enum class FindingKind : uint8_t { passed, failed, skipped };

// What one check found, in one line. `code` of a failed one: corrupt or verification.
struct Finding {
  FindingKind kind = FindingKind::passed;
  ErrorCode code = ErrorCode::verification;
  std::string evidence;
};
inline Finding passed(std::string evidence) { return {FindingKind::passed, {}, std::move(evidence)}; }
inline Finding skipped(std::string why) { return {FindingKind::skipped, {}, std::move(why)}; }
inline Finding failed(ErrorCode code, std::string evidence) { return {FindingKind::failed, code, std::move(evidence)}; }

struct NamedFinding {
  std::string check;
  Finding finding;
};

// How far the candidate's predictions are from the reference's.
struct MeasuredDivergence {
  std::string text;  // "512 tokens drawn from the reference"
  int64_t tokens = 0;
  double mean_kl = 0, mean_kl_error = 0;
  double agreement = 0, agreement_error = 0;
  double perplexity_ratio = 0, perplexity_ratio_error = 0;
  double reference_perplexity = 0, candidate_perplexity = 0;
  DivergenceLimits limits;
};

struct Verification {
  std::vector<NamedFinding> findings;  // one per check, in order
  std::optional<MeasuredDivergence> divergence;
};

// Runs all checks in order. After a check that found the files corrupt the rest is skipped. Errors, as opposed to
// findings, are what stops the checking itself: `usage` for impossible options, `io` for a folder that does not exist,
// whatever opening the reference says, `unsupported` and `resources`.
Result<Verification> verify_model(const VerifyOptions& options, ThreadPool& pool);

}  // namespace nibble
