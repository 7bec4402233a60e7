#include <nibble/verify.h>

#include "api/float_type.h"
#include "api/guard.h"
#include "api/threads.h"
#include "eval/verify/verify.h"

namespace nibble {
namespace {

Outcome outcome_of(FindingKind kind) {
  switch (kind) {
    case FindingKind::failed: return Outcome::failed;
    case FindingKind::skipped: return Outcome::skipped;
    case FindingKind::passed: break;
  }
  return Outcome::passed;
}

DivergenceFound divergence_of(const MeasuredDivergence& found) {
  DivergenceFound out;
  out.text = found.text;
  out.tokens = found.tokens;
  out.mean_kl = found.mean_kl;
  out.mean_kl_error = found.mean_kl_error;
  out.top1_agreement = found.agreement;
  out.top1_agreement_error = found.agreement_error;
  out.perplexity_ratio = found.perplexity_ratio;
  out.perplexity_ratio_error = found.perplexity_ratio_error;
  out.reference_perplexity = found.reference_perplexity;
  out.candidate_perplexity = found.candidate_perplexity;
  out.max_kl = found.limits.max_kl;
  out.min_agreement = found.limits.min_agreement;
  out.max_perplexity_ratio = found.limits.max_perplexity_ratio;
  return out;
}

// The first check that failed gives the reason; damaged files outweigh the rest.
Verdict verdict_of(const Verification& found) {
  Verdict verdict;
  verdict.passed = true;
  for (const auto& [check, finding] : found.findings) {
    verdict.checks.push_back({check, outcome_of(finding.kind), finding.evidence});
    if (finding.kind != FindingKind::failed) continue;
    const bool worse = finding.code == ErrorCode::corrupt && verdict.code != ErrorCode::corrupt;
    if (verdict.passed || worse) {
      verdict.reason = check + ": " + finding.evidence;
      verdict.code = finding.code;
    }
    verdict.passed = false;
  }
  if (found.divergence) verdict.divergence = divergence_of(*found.divergence);
  return verdict;
}

Result<VerifyOptions> options_of(const VerifyRequest& request) {
  VerifyOptions options;
  options.candidate = request.candidate;
  options.reference = request.reference;
  options.text = request.text;
  options.max_kl = request.max_kl;
  options.min_agreement = request.min_agreement;
  options.max_perplexity_ratio = request.max_perplexity_ratio;
  options.progress = request.progress;
  if (request.load.weights)
    return fail(ErrorCode::usage, "weights cannot be converted while a model is verified: that would be another model");
  options.cache = request.load.cache;
  return options;
}

}  // namespace

std::string_view name_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::failed: return "failed";
    case Outcome::skipped: return "skipped";
    case Outcome::passed: break;
  }
  return "passed";
}

Result<Verdict> verify(const VerifyRequest& request) {
  return guarded([&]() -> Result<Verdict> {
    NIBBLE_TRY(const VerifyOptions options, options_of(request));
    NIBBLE_TRY(const int threads, thread_count(request.load.threads));
    ThreadPool pool(threads);
    NIBBLE_TRY(const Verification found, verify_model(options, pool));
    return verdict_of(found);
  });
}

}  // namespace nibble
