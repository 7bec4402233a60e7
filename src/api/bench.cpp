#include <nibble/bench.h>
#include <sys/resource.h>

#include <algorithm>

#include "api/guard.h"
#include "api/language_model_impl.h"
#include "api/peaks.h"
#include "bench/model_bench.h"
#include "measure/statistics.h"

namespace nibble {
namespace {

constexpr int64_t kMostBatch = 1024, kMostTokens = 1 << 20;
constexpr int kMostRepetitions = 10000;
constexpr int64_t kSmallModel = 64 << 20, kSmallMemory = 128 << 20, kLargeMemory = 512 << 20;  // bytes

Rate rate_of(bench::Series series) {
  std::vector<double> sorted = series.rates;
  std::sort(sorted.begin(), sorted.end());
  const auto quantile = [&](double q) { return estimate_quantile(sorted, q).value; };
  return {quantile(0.5), quantile(0.25), quantile(0.75), std::move(series.rates), series.share};
}

int64_t peak_resident_bytes() {
  rusage usage{};
  return ::getrusage(RUSAGE_SELF, &usage) == 0 ? int64_t{usage.ru_maxrss} * 1024 : 0;
}

// At most `most`, in order, what occurs twice once.
std::vector<int64_t> capped(const std::vector<int64_t>& wanted, int64_t most) {
  std::vector<int64_t> out;
  for (int64_t value : wanted) {
    value = std::min(value, most);
    if (std::find(out.begin(), out.end(), value) == out.end()) out.push_back(value);
  }
  return out;
}

Status expect_all(const std::vector<int64_t>& values, std::string_view what, int64_t least, int64_t most) {
  for (int64_t value : values)
    if (value < least || value > most)
      return fail(ErrorCode::usage, "bench: {} of {}; expected {} to {}", what, value, least, most);
  return {};
}

Status validate(const BenchOptions& options) {
  NIBBLE_DO(expect_all(options.prompts, "a prompt", 1, kMostTokens));
  NIBBLE_DO(expect_all(options.contexts, "a context", 0, kMostTokens));
  NIBBLE_DO(expect_all(options.batches, "a batch", 1, kMostBatch));
  if (options.generated_tokens < 1)
    return fail(ErrorCode::usage, "bench: {} generated tokens; expected at least 1", options.generated_tokens);
  if (options.repetitions >= 1 && options.repetitions <= kMostRepetitions) return {};
  return fail(ErrorCode::usage, "bench: {} repetitions; expected 1 to {}", options.repetitions, kMostRepetitions);
}

}  // namespace

Result<BenchReport> LanguageModel::bench(const BenchOptions& options) const {
  return guarded([&]() -> Result<BenchReport> {
    NIBBLE_DO(validate(options));
    std::lock_guard guard(impl_->lock);
    BenchReport report;
    report.generated_tokens = std::min(options.generated_tokens, positions());
    report.repetitions = options.repetitions;
    report.threads = threads();
    report.isa = isa();
    report.packed_bytes = impl_->model.packed_bytes();
    report.mapped_bytes = impl_->model.mapped_bytes();
    const auto prompts = capped(options.prompts, positions());
    const auto contexts = capped(options.contexts, positions() - report.generated_tokens);
    const auto batches = capped(options.batches, kMostBatch);
    bench::Passes passes(impl_->model, *impl_->pool, std::max(bench::kPrefillChunk, kMostBatch));
    NIBBLE_TRY(report.first_pass_seconds, passes.pass(1, 0, 1));
    report.peak_bytes = peak_resident_bytes();
    const bool small = report.packed_bytes + report.mapped_bytes < kSmallModel;
    bench::Machine machine(impl_->model.isa(), small ? kSmallMemory : kLargeMemory, *impl_->pool);
    bench::ModelRoof roof(impl_->model, machine);
    const auto timed = static_cast<double>(prompts.size() + contexts.size() + batches.size());
    ProgressMeter meter(timed * (options.repetitions + 1), options.progress);
    bench::ModelTiming timing(passes, roof, options.repetitions, meter);
    for (int64_t tokens : prompts) {
      NIBBLE_TRY(auto series, timing.prefill(tokens));
      report.prefill.push_back({tokens, rate_of(std::move(series))});
    }
    for (int64_t context : contexts) {
      NIBBLE_TRY(auto series, timing.decode(1, context, report.generated_tokens));
      report.decode.push_back({context, rate_of(std::move(series))});
    }
    for (int64_t batch : batches) {
      NIBBLE_TRY(auto series, timing.decode(batch, 0, report.generated_tokens));
      report.batched.push_back({batch, rate_of(std::move(series))});
    }
    fill_peaks(machine, report);
    return report;
  });
}

}  // namespace nibble
