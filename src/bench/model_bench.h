// How fast a model runs: prefill and decoding, repeated, each pass beside probes of the machine.
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "bench/model.h"
#include "core/progress.h"
#include "runtime/model.h"

namespace nibble::bench {

// Sequences of random tokens that are filled and extended over and over.
class Passes {
 public:
  // `most_tokens` of a pass, all sequences together. Model and pool must outlive this.
  Passes(const Model& model, ThreadPool& pool, int64_t most_tokens);

  // Seconds for `count` more tokens in each of `batch` sequences that hold `position` tokens; logits of the last one.
  Result<double> pass(int64_t batch, int64_t position, int64_t count);
  // Brings `batch` sequences to `position` tokens, whatever they hold; only the missing ones are computed.
  Status fill(int64_t batch, int64_t position);

 private:
  Sequence& sequence(int64_t i);

  const Model& model_;
  ThreadPool& pool_;
  std::vector<int32_t> ids_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::vector<Segment> segments_;
  std::vector<int64_t> wanted_;
  std::vector<float> logits_;
  Workspace workspace_;
};

constexpr int64_t kPrefillChunk = 512;  // tokens, as in generation

// What was timed at once: a prompt in its chunks, or one step of decoding.
struct TimedPasses {
  double seconds = std::numeric_limits<double>::infinity();
  std::vector<Pass> passes;
};

struct Series {
  std::vector<double> rates;  // tokens per second of all sequences together, by repetition
  // Of the roof: the least seconds of the fastest timed passes, by the fastest probes of the whole series, over their
  // seconds. The warm-up's probes count, its passes do not.
  double share = 0;
};

// Repeats one thing; the first run is not counted, since memory is mapped and clocks rise. One step of `meter` for each
// run.
class ModelTiming {
 public:
  ModelTiming(Passes& passes, ModelRoof& roof, int repetitions, ProgressMeter& meter)
      : passes_(passes), roof_(roof), repetitions_(repetitions), meter_(meter) {}

  Result<Series> prefill(int64_t tokens);
  // `steps` tokens one by one in each of `batch` sequences, after `context` tokens.
  Result<Series> decode(int64_t batch, int64_t context, int64_t steps);

 private:
  template <class Once>
  Result<Series> repeat(const std::string& what, Once once);

  Passes& passes_;
  ModelRoof& roof_;
  int repetitions_;
  ProgressMeter& meter_;
};

}  // namespace nibble::bench
