#include <nibble/bench.h>
#include <sys/resource.h>

#include <algorithm>

#include "api/guard.h"
#include "api/language_model_impl.h"
#include "bench/clock.h"
#include "bench/model.h"
#include "core/progress.h"
#include "core/random.h"
#include "measure/statistics.h"

namespace nibble {
namespace {

constexpr int64_t kChunk = 512;  // of the prefill, as in generation
constexpr int64_t kMostBatch = 1024, kMostTokens = 1 << 20;
constexpr int kMostRepetitions = 10000;
constexpr int64_t kSmallModel = 64 << 20, kSmallMemory = 128 << 20, kLargeMemory = 512 << 20;  // bytes
constexpr double kGiga = 1e9;

std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary) {
  Random random(1);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary)));
  return ids;
}

Rate rate_of(std::vector<double> measured, double share) {
  std::vector<double> sorted = measured;
  std::sort(sorted.begin(), sorted.end());
  const auto quantile = [&](double q) { return estimate_quantile(sorted, q).value; };
  return {quantile(0.5), quantile(0.25), quantile(0.75), std::move(measured), share};
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

// One measured thing: a pass that is repeated, and what it cannot be faster than.
struct Series {
  std::vector<double> rates;  // tokens per second, by repetition
  bench::Fastest pass;        // the fastest single pass
  double least = 0;           // seconds at the roof for such a pass

  Rate rate() { return rate_of(std::move(rates), least > 0 ? least / pass.seconds : 0); }
};

// Sequences that are filled and extended over and over.
class Passes {
 public:
  Passes(const Model& model, ThreadPool& pool, int64_t most_tokens)
      : model_(model), pool_(pool), ids_(random_ids(most_tokens, model.spec().vocabulary)) {}

  // Seconds for `count` more tokens in each of `batch` sequences that hold `position` tokens; logits of the last one.
  Result<double> pass(int64_t batch, int64_t position, int64_t count) {
    segments_.clear();
    wanted_.clear();
    for (int64_t i = 0; i < batch; ++i) {
      segments_.push_back({&sequence(i), count, position});
      wanted_.push_back((i + 1) * count - 1);
    }
    logits_.resize(static_cast<size_t>(batch * model_.spec().vocabulary));
    const auto tokens = std::span(ids_).first(static_cast<size_t>(batch * count));
    const bench::Stopwatch watch;
    NIBBLE_DO(model_.forward(tokens, segments_, wanted_, logits_.data(), workspace_, pool_));
    return watch.seconds();
  }

  // Brings `batch` sequences to `position` tokens, whatever they hold; only the missing ones are computed.
  Status fill(int64_t batch, int64_t position) {
    for (int64_t i = 0; i < batch; ++i) {
      sequence(i).truncate(position);
      while (sequence(i).length() < position) {
        Segment segment{&sequence(i), std::min(kChunk, position - sequence(i).length()), 0};
        NIBBLE_DO(model_.run_blocks(std::span(ids_).first(static_cast<size_t>(segment.count)), {&segment, 1},
                                    workspace_, pool_));
      }
    }
    return {};
  }

 private:
  Sequence& sequence(int64_t i) {
    while (static_cast<int64_t>(sequences_.size()) <= i)
      sequences_.push_back(std::make_unique<Sequence>(model_.new_sequence()));
    return *sequences_[static_cast<size_t>(i)];
  }

  const Model& model_;
  ThreadPool& pool_;
  std::vector<int32_t> ids_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::vector<Segment> segments_;
  std::vector<int64_t> wanted_;
  std::vector<float> logits_;
  Workspace workspace_;
};

// Repeats one thing; the first run is not counted, since memory is mapped and clocks rise.
class Timing {
 public:
  Timing(Passes& passes, bench::ModelRoof& roof, int repetitions, ProgressMeter& meter)
      : passes_(passes), roof_(roof), repetitions_(repetitions), meter_(meter) {}

  Result<Rate> prefill(int64_t tokens) {
    return repeat(fmt::format("prefill, {} tokens", tokens), [&](Series& series) -> Result<double> {
      NIBBLE_DO(passes_.fill(1, 0));
      double seconds = 0, least = 0;
      for (int64_t at = 0; at < tokens; at += kChunk) {
        const int64_t count = std::min(kChunk, tokens - at);
        const bench::Pass pass{count, 1, at + count};
        roof_.probe(pass);
        NIBBLE_TRY(const double taken, passes_.pass(1, at, count));
        seconds += taken;
        least += roof_.least_seconds(pass);
      }
      series.pass.add(seconds);
      series.least = least;
      return static_cast<double>(tokens) / seconds;
    });
  }

  // `steps` tokens one by one in each of `batch` sequences, after `context` tokens.
  Result<Rate> decode(int64_t batch, int64_t context, int64_t steps) {
    const std::string what = fmt::format("decode, {} sequences after {} tokens", batch, context);
    return repeat(what, [&](Series& series) -> Result<double> {
      NIBBLE_DO(passes_.fill(batch, context));
      const bench::Pass pass{batch, batch, batch * (context + steps / 2)};
      double seconds = 0;
      for (int64_t step = 0; step < steps; ++step) {
        roof_.probe(pass);
        NIBBLE_TRY(const double taken, passes_.pass(batch, context + step, 1));
        seconds += taken;
        series.pass.add(taken);
      }
      series.least = roof_.least_seconds(pass);
      return static_cast<double>(batch * steps) / seconds;
    });
  }

 private:
  template <class Once>
  Result<Rate> repeat(const std::string& what, Once once) {
    Series series;
    for (int i = 0; i <= repetitions_; ++i) {
      if (i == 1) series.pass = {};
      NIBBLE_TRY(const double rate, once(series));
      if (i > 0) series.rates.push_back(rate);
      meter_.advance(1, what);
    }
    return series.rate();
  }

  Passes& passes_;
  bench::ModelRoof& roof_;
  int repetitions_;
  ProgressMeter& meter_;
};

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

void fill_peaks(const bench::Machine& machine, BenchReport& report) {
  report.int8 = machine.best_peak(Arithmetic::int8) / kGiga;
  report.bf16 = machine.best_peak(Arithmetic::bf16) / kGiga;
  report.f32 = machine.best_peak(Arithmetic::f32) / kGiga;
  report.bandwidth = machine.bandwidth() / kGiga;
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
    Passes passes(impl_->model, *impl_->pool, std::max(kChunk, kMostBatch));
    NIBBLE_TRY(report.first_pass_seconds, passes.pass(1, 0, 1));
    report.peak_bytes = peak_resident_bytes();
    const bool small = report.packed_bytes + report.mapped_bytes < kSmallModel;
    bench::Machine machine(impl_->model.isa(), small ? kSmallMemory : kLargeMemory, *impl_->pool);
    bench::ModelRoof roof(impl_->model, machine);
    const auto series = static_cast<double>(prompts.size() + contexts.size() + batches.size());
    ProgressMeter meter(series * (options.repetitions + 1), options.progress);
    Timing timing(passes, roof, options.repetitions, meter);
    for (int64_t tokens : prompts) {
      NIBBLE_TRY(Rate rate, timing.prefill(tokens));
      report.prefill.push_back({tokens, std::move(rate)});
    }
    for (int64_t context : contexts) {
      NIBBLE_TRY(Rate rate, timing.decode(1, context, report.generated_tokens));
      report.decode.push_back({context, std::move(rate)});
    }
    for (int64_t batch : batches) {
      NIBBLE_TRY(Rate rate, timing.decode(batch, 0, report.generated_tokens));
      report.batched.push_back({batch, std::move(rate)});
    }
    fill_peaks(machine, report);
    return report;
  });
}

}  // namespace nibble
