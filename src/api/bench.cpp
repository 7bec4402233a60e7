#include <algorithm>
#include <chrono>

#include "api/guard.h"
#include "api/language_model_impl.h"
#include "core/random.h"
#include "measure/statistics.h"

namespace nibble {
namespace {

constexpr int64_t kChunk = 512;  // of the prefill, as in generation
constexpr int kMostRepetitions = 10000;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary) {
  Random random(1);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary)));
  return ids;
}

Rate rate_of(std::vector<double> measured) {
  std::vector<double> sorted = measured;
  std::sort(sorted.begin(), sorted.end());
  const auto quantile = [&](double q) { return estimate_quantile(sorted, q).value; };
  return {quantile(0.5), quantile(0.25), quantile(0.75), std::move(measured)};
}

// One sequence that is filled and extended over and over.
class Stopwatch {
 public:
  Stopwatch(const Model& model, ThreadPool& pool, std::vector<int32_t> ids)
      : model_(model),
        pool_(pool),
        ids_(std::move(ids)),
        sequence_(model.new_sequence()),
        logits_(static_cast<size_t>(model.spec().vocabulary)) {}

  // Seconds for tokens [begin, end), `chunk` at a time; what was cached from `begin` on is dropped first.
  Result<double> run(int64_t begin, int64_t end, int64_t chunk) {
    sequence_.truncate(begin);
    const auto start = std::chrono::steady_clock::now();
    for (int64_t at = begin; at < end; at += chunk) NIBBLE_DO(append(at, std::min(chunk, end - at)));
    return seconds_since(start);
  }

 private:
  // Like generation: logits of the last token only.
  Status append(int64_t first, int64_t count) {
    Segment segment{&sequence_, count, first};
    const int64_t last = count - 1;
    return model_.forward(std::span(ids_).subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
                          {&segment, 1}, {&last, 1}, logits_.data(), workspace_, pool_);
  }

  const Model& model_;
  ThreadPool& pool_;
  std::vector<int32_t> ids_;
  Sequence sequence_;
  std::vector<float> logits_;
  Workspace workspace_;
};

Status validate(const BenchOptions& options) {
  if (options.prompt_tokens < 1 || options.generated_tokens < 1)
    return fail(ErrorCode::usage, "bench: {} prompt and {} generated tokens; expected at least 1 of each",
                options.prompt_tokens, options.generated_tokens);
  if (options.repetitions >= 1 && options.repetitions <= kMostRepetitions) return {};
  return fail(ErrorCode::usage, "bench: {} repetitions; expected 1 to {}", options.repetitions, kMostRepetitions);
}

}  // namespace

Result<BenchReport> LanguageModel::bench(const BenchOptions& options) const {
  return guarded([&]() -> Result<BenchReport> {
    NIBBLE_DO(validate(options));
    std::lock_guard guard(impl_->lock);
    BenchReport report;
    report.prompt_tokens = std::min(options.prompt_tokens, positions());
    report.generated_tokens = std::min(options.generated_tokens, positions());
    report.repetitions = options.repetitions;
    report.threads = threads();
    report.isa = isa();
    report.packed_bytes = impl_->model.packed_bytes();
    const int64_t decode_from = std::min(report.prompt_tokens, positions() - report.generated_tokens);
    const int64_t decode_to = decode_from + report.generated_tokens;
    Stopwatch stopwatch(impl_->model, *impl_->pool,
                        random_ids(std::max(report.prompt_tokens, decode_to), vocabulary()));
    std::vector<double> prefill, decode;
    for (int i = 0; i <= options.repetitions; ++i) {
      NIBBLE_TRY(const double filling, stopwatch.run(0, report.prompt_tokens, kChunk));
      NIBBLE_TRY(const double decoding, stopwatch.run(decode_from, decode_to, 1));
      if (options.progress) options.progress({"timing", static_cast<double>(i + 1) / (options.repetitions + 1), -1});
      if (i == 0) continue;  // caches and clocks warm up
      prefill.push_back(static_cast<double>(report.prompt_tokens) / filling);
      decode.push_back(static_cast<double>(report.generated_tokens) / decoding);
    }
    report.prefill = rate_of(std::move(prefill));
    report.decode = rate_of(std::move(decode));
    return report;
  });
}

}  // namespace nibble
