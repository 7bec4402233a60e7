#include "eval/verify/sampling.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/random.h"
#include "measure/entropy.h"
#include "measure/softmax.h"

namespace nibble {
namespace {

struct Drawn {
  int32_t id = 0;
  double entropy = 0;  // of the prediction, nats
};

// Inverse transform over the ids in their order: nothing is sorted, since nothing is filtered.
Drawn draw_from(std::span<const float> logits, Random& random, std::vector<double>& parts) {
  const Softmax softmax = softmax_of(logits);
  double sum = 0;
  parts.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) sum += parts[i] = std::exp(softmax.log_of(logits[i]));
  const double point = static_cast<double>(random.next() >> 11) * 0x1p-53 * sum;
  double passed = 0;
  size_t id = 0;
  while (id + 1 < parts.size() && (passed += parts[id]) <= point) ++id;
  return {static_cast<int32_t>(id), entropy_of(logits)};
}

// One of the sequences that are drawn side by side.
struct Writer {
  Sequence sequence;
  Random random;
  std::vector<double> parts;  // scratch of a draw
  std::vector<SampledRun> runs;
  std::vector<int32_t> pending;  // to be run before the next token can be drawn

  void begin(std::span<const int32_t> start) {
    sequence.clear();
    pending.assign(start.begin(), start.end());
    runs.push_back({pending, static_cast<int64_t>(start.size())});
  }
};

class Sampling {
 public:
  Sampling(const Model& model, std::span<const int32_t> start, std::span<const int32_t> end_tokens,
           const SamplingPlan& plan, ThreadPool& pool)
      : model_(model), start_(start), end_tokens_(end_tokens), pool_(pool) {
    for (int64_t i = 0; i < plan.sequences; ++i) {
      writers_.push_back({model.new_sequence(), Random(plan.seed + static_cast<uint64_t>(i)), {}, {}, {}});
      writers_.back().begin(start);
    }
    logits_ = AlignedBuffer<float>(plan.sequences * model.spec().vocabulary);
  }

  // One more token of every sequence.
  Status step() {
    std::vector<int32_t> tokens;
    std::vector<Segment> segments;
    std::vector<int64_t> wanted;
    for (Writer& writer : writers_) {
      segments.push_back({&writer.sequence, static_cast<int64_t>(writer.pending.size()), 0});
      tokens.insert(tokens.end(), writer.pending.begin(), writer.pending.end());
      wanted.push_back(static_cast<int64_t>(tokens.size()) - 1);
    }
    NIBBLE_DO(model_.forward(tokens, segments, wanted, logits_.data(), workspace_, pool_));
    draw();
    return {};
  }

  SampledText take() {
    SampledText out;
    for (Writer& writer : writers_)
      for (SampledRun& run : writer.runs) {
        out.drawn += static_cast<int64_t>(run.ids.size()) - run.start;
        if (static_cast<int64_t>(run.ids.size()) > run.start) out.runs.push_back(std::move(run));
      }
    out.mean_entropy = out.drawn > 0 ? entropy_ / static_cast<double>(out.drawn) : 0;
    return out;
  }

 private:
  void draw() {
    const int64_t vocabulary = model_.spec().vocabulary;
    std::vector<Drawn> drawn(writers_.size());
    pool_.run(static_cast<int64_t>(writers_.size()), [&](int64_t i) {
      const std::span<const float> row(logits_.data() + i * vocabulary, static_cast<size_t>(vocabulary));
      Writer& writer = writers_[static_cast<size_t>(i)];
      drawn[static_cast<size_t>(i)] = draw_from(row, writer.random, writer.parts);
    });
    for (size_t i = 0; i < writers_.size(); ++i) {
      entropy_ += drawn[i].entropy;
      append(writers_[i], drawn[i].id);
    }
  }

  void append(Writer& writer, int32_t id) {
    writer.runs.back().ids.push_back(id);
    const bool ended = std::find(end_tokens_.begin(), end_tokens_.end(), id) != end_tokens_.end();
    if (ended) return writer.begin(start_);
    writer.pending.assign(1, id);
  }

  const Model& model_;
  std::span<const int32_t> start_, end_tokens_;
  ThreadPool& pool_;
  std::vector<Writer> writers_;
  AlignedBuffer<float> logits_;
  Workspace workspace_;
  double entropy_ = 0;
};

}  // namespace

std::vector<int32_t> SampledText::drawn_tokens() const {
  std::vector<int32_t> out;
  for (const SampledRun& run : runs) out.insert(out.end(), run.ids.begin() + run.start, run.ids.end());
  return out;
}

Result<SampledText> sample_text(const Model& model, std::span<const int32_t> start, std::span<const int32_t> end_tokens,
                                const SamplingPlan& plan, ThreadPool& pool, const std::function<void(double)>& told) {
  const int64_t room = model.spec().max_positions - static_cast<int64_t>(start.size());
  if (start.empty() || room < 1)
    return fail(ErrorCode::usage, "a text cannot begin with {} tokens in {} positions", start.size(),
                model.spec().max_positions);
  const auto begun = std::chrono::steady_clock::now();
  const int64_t steps = std::min(plan.tokens, room);
  Sampling sampling(model, start, end_tokens, plan, pool);
  for (int64_t i = 0; i < steps; ++i) {
    NIBBLE_DO(sampling.step());
    if (told) told(static_cast<double>(i + 1) / static_cast<double>(steps));
  }
  SampledText out = sampling.take();
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  return out;
}

}  // namespace nibble
