#include <nibble/compare.h>
#include <nibble/report.h>

#include "api/guard.h"
#include "api/threads.h"
#include "eval/report/collect.h"
#include "eval/report/page.h"

namespace nibble {
namespace {

// Of the work with a text, the part that goes by before the text is run.
constexpr double kCollecting = 0.1;

ProgressCallback part_of(const ProgressCallback& whole, double begin, double end) {
  if (!whole) return {};
  return [&whole, begin, end](Progress progress) {
    progress.done = begin + (end - begin) * progress.done;
    if (end < 1) progress.seconds_left = -1;  // how long the rest takes is not known
    whole(progress);
  };
}

Estimate estimate_of(const Measured& measured) { return {measured.value, measured.standard_error}; }

Divergence divergence_of(Comparison found) {
  Divergence out;
  out.tokens = found.tokens;
  out.mean_kl = estimate_of(found.mean_kl);
  out.median_kl = estimate_of(found.median_kl);
  out.p99_kl = estimate_of(found.p99_kl);
  out.p999_kl = estimate_of(found.p999_kl);
  out.max_kl = found.max_kl;
  out.top1_agreement = estimate_of(found.top1_agreement);
  out.top5_agreement = estimate_of(found.top5_agreement);
  out.probability_change = estimate_of(found.probability_change);
  out.rms_probability_change = found.rms_probability_change;
  out.reference_perplexity = found.reference_perplexity;
  out.candidate_perplexity = found.candidate_perplexity;
  out.perplexity_ratio = estimate_of(found.perplexity_ratio);
  out.kl = std::move(found.kl);
  return out;
}

// "windows of 512", "strided windows of 512, every 256 tokens", "second half of windows of 512".
std::string protocol_of(const CompareReport& report) {
  std::string words = fmt::format("windows of {}", report.window);
  if (report.protocol == "strided") words = fmt::format("strided {}, every {} tokens", words, report.stride);
  if (report.protocol == "second-half") words = "second half of " + words;
  return report.preset.empty() ? words : fmt::format("{} ({})", words, report.preset);
}

Status add_divergence(const ReportRequest& request, LayerReport& report) {
  CompareRequest wanted;
  wanted.reference = request.reference;
  wanted.candidates = {request.model};
  wanted.text = request.text;
  wanted.protocol = request.protocol;
  wanted.load = request.load;
  wanted.progress = part_of(request.progress, kCollecting, 1);
  NIBBLE_TRY(CompareReport found, compare(wanted));
  report.protocol = protocol_of(found);
  report.divergence = divergence_of(std::move(found.candidates.at(0)));
  return {};
}

}  // namespace

Result<ModelReport> report(const ReportRequest& request) {
  return guarded([&]() -> Result<ModelReport> {
    if (request.model.empty()) return fail(ErrorCode::usage, "no model folder is given");
    const bool text = !request.text.empty();
    if (text && request.reference.empty())
      return fail(ErrorCode::usage, "a text measures the divergence from a reference, and there is none");
    LayerReport found;
    {
      NIBBLE_TRY(const int threads, thread_count(request.load.threads));
      ThreadPool pool(threads);
      const ProgressCallback progress = part_of(request.progress, 0, text ? kCollecting : 1);
      NIBBLE_TRY(found, collect_report(request.model, request.reference, pool, progress));
    }
    if (text) NIBBLE_DO(add_divergence(request, found));
    return ModelReport{dump_json(to_json(found)), report_page(found)};
  });
}

}  // namespace nibble
