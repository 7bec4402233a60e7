#include "bench/model_bench.h"

#include <fmt/format.h>

#include <algorithm>

#include "bench/clock.h"
#include "core/random.h"

namespace nibble::bench {
namespace {

std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary) {
  Random random(1);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary)));
  return ids;
}

void keep_faster(TimedPasses& fastest, TimedPasses timed) {
  if (timed.seconds < fastest.seconds) fastest = std::move(timed);
}

double share_of(const TimedPasses& timed, const ModelRoof& roof) {
  double least = 0;
  for (const Pass& pass : timed.passes) least += roof.least_seconds(pass);
  return least / timed.seconds;
}

}  // namespace

Passes::Passes(const Model& model, ThreadPool& pool, int64_t most_tokens)
    : model_(model), pool_(pool), ids_(random_ids(most_tokens, model.spec().vocabulary)) {}

Result<double> Passes::pass(int64_t batch, int64_t position, int64_t count) {
  segments_.clear();
  wanted_.clear();
  for (int64_t i = 0; i < batch; ++i) {
    segments_.push_back({&sequence(i), count, position});
    wanted_.push_back((i + 1) * count - 1);
  }
  logits_.resize(static_cast<size_t>(batch * model_.spec().vocabulary));
  const auto tokens = std::span(ids_).first(static_cast<size_t>(batch * count));
  const Stopwatch watch;
  NIBBLE_DO(model_.forward(tokens, segments_, wanted_, logits_.data(), workspace_, pool_));
  return watch.seconds();
}

Status Passes::fill(int64_t batch, int64_t position) {
  for (int64_t i = 0; i < batch; ++i) {
    sequence(i).truncate(position);
    while (sequence(i).length() < position) {
      Segment segment{&sequence(i), std::min(kPrefillChunk, position - sequence(i).length()), 0};
      NIBBLE_DO(model_.run_blocks(std::span(ids_).first(static_cast<size_t>(segment.count)), {&segment, 1}, workspace_,
                                  pool_));
    }
  }
  return {};
}

Sequence& Passes::sequence(int64_t i) {
  while (static_cast<int64_t>(sequences_.size()) <= i)
    sequences_.push_back(std::make_unique<Sequence>(model_.new_sequence()));
  return *sequences_[static_cast<size_t>(i)];
}

template <class Once>
Result<Series> ModelTiming::repeat(const std::string& what, Once once) {
  Series series;
  TimedPasses fastest;
  roof_.begin();
  for (int i = 0; i <= repetitions_; ++i) {
    if (i == 1) fastest = {};
    NIBBLE_TRY(const double rate, once(fastest));
    if (i > 0) series.rates.push_back(rate);
    meter_.advance(1, what);
  }
  series.share = share_of(fastest, roof_);
  return series;
}

Result<Series> ModelTiming::prefill(int64_t tokens) {
  return repeat(fmt::format("prefill, {} tokens", tokens), [&](TimedPasses& fastest) -> Result<double> {
    NIBBLE_DO(passes_.fill(1, 0));
    TimedPasses prompt{0, {}};
    for (int64_t at = 0; at < tokens; at += kPrefillChunk) {
      const int64_t count = std::min(kPrefillChunk, tokens - at);
      prompt.passes.push_back({count, 1, at + count});
      roof_.probe(prompt.passes.back());
      NIBBLE_TRY(const double taken, passes_.pass(1, at, count));
      prompt.seconds += taken;
    }
    const double rate = static_cast<double>(tokens) / prompt.seconds;
    keep_faster(fastest, std::move(prompt));
    return rate;
  });
}

Result<Series> ModelTiming::decode(int64_t batch, int64_t context, int64_t steps) {
  const std::string what = fmt::format("decode, {} sequences after {} tokens", batch, context);
  return repeat(what, [&](TimedPasses& fastest) -> Result<double> {
    NIBBLE_DO(passes_.fill(batch, context));
    double seconds = 0;
    for (int64_t step = 0; step < steps; ++step) {
      const Pass pass{batch, batch, batch * (context + step + 1)};
      roof_.probe(pass);
      NIBBLE_TRY(const double taken, passes_.pass(batch, context + step, 1));
      seconds += taken;
      keep_faster(fastest, {taken, {pass}});
    }
    return static_cast<double>(batch * steps) / seconds;
  });
}

}  // namespace nibble::bench
