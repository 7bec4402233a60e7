#include "search/fidelity.h"

#include <algorithm>

#include "core/hash.h"
#include "engine/sampler.h"
#include "measure/rows.h"

namespace nibble::search {
namespace {

constexpr int64_t kTokensAtOnce = 2048;  // through a block

template <class T>
std::span<const std::byte> bytes_of(const T& values) {
  return std::as_bytes(std::span(values));
}

}  // namespace

Yardstick::Yardstick(const Model& model, const Samples& text) : model_(&model), text_(&text), one_block_(model.spec()) {
  one_block_.layers = 1;
  const int64_t count = std::clamp<int64_t>(kTokensAtOnce / text.length, 1, text.count);
  for (int64_t i = 0; i < count; ++i) sequences_.emplace_back(one_block_, CacheType::f32);
}

Result<Yardstick> Yardstick::make(const Model& model, const Samples& text, ThreadPool& pool) {
  if (text.length < 2) return fail(ErrorCode::usage, "samples of {} tokens predict nothing; expected 2", text.length);
  Yardstick out(model, text);
  NIBBLE_DO(out.embed(pool));
  States states = out.copy(out.first_);
  for (int64_t layer = 0; layer < model.spec().layers; ++layer) out.run_block(model.block(layer), {}, states, pool);
  const int64_t predictions = text.count * out.per_sample(), width = model.spec().vocabulary;
  out.reference_ = AlignedBuffer<float>(predictions * width);
  out.softmax_.resize(static_cast<size_t>(predictions));
  std::vector<double> nll(out.softmax_.size());
  NIBBLE_DO(out.for_logits(states, pool, [&](int64_t first, int64_t count, const float* rows) {
    std::copy_n(rows, count * width, out.reference_.data() + first * width);
    pool.run(count, [&](int64_t row) {
      const auto at = static_cast<size_t>(first + row);
      const std::span<const float> logits(rows + row * width, static_cast<size_t>(width));
      out.softmax_[at] = softmax_of(logits);
      nll[at] = -out.softmax_[at].log_of(logits[static_cast<size_t>(out.target(first + row))]);
    });
  }));
  for (double value : nll) out.reference_nll_ += value / static_cast<double>(predictions);
  out.fingerprint_ = Sha256().add(bytes_of(text.tokens)).add(bytes_of(out.reference_.span())).finish();
  return out;
}

Status Yardstick::embed(ThreadPool& pool) {
  const int64_t hidden = one_block_.hidden, length = text_->length;
  first_ = States(tokens() * hidden);
  for (int64_t i = 0; i < text_->count; ++i) {
    sequences_[0].clear();
    const Segment segment{&sequences_[0], length, 0};
    NIBBLE_DO(model_->embedder().embed(text_->sample(i), {&segment, 1}, first_.data() + i * length * hidden, workspace_,
                                       pool));
  }
  return {};
}

States Yardstick::copy(const States& states) const {
  States out(states.size());
  std::copy_n(states.data(), states.size(), out.data());
  return out;
}

void Yardstick::run_block(const PackedBlock& block, const AttentionFormats& attention, States& states,
                          ThreadPool& pool) {
  const auto at_once = static_cast<int64_t>(sequences_.size());
  if (attention != attention_) {
    attention_ = attention;
    const AttentionPlans plans = plan_attention(one_block_, {&attention_, 1});
    for (Sequence& sequence : sequences_) sequence = Sequence(one_block_, plans);
  }
  for (int64_t first = 0; first < text_->count; first += at_once) {
    std::vector<Segment> segments;
    for (int64_t i = 0; i < std::min(at_once, text_->count - first); ++i) {
      sequences_[static_cast<size_t>(i)].clear();
      segments.push_back({&sequences_[static_cast<size_t>(i)], text_->length, 0});
    }
    forward_block(one_block_, block, 0, segments, states.data() + first * text_->length * one_block_.hidden,
                  model_->isa(), workspace_, pool);
  }
}

int32_t Yardstick::target(int64_t prediction) const {
  return text_->sample(prediction / per_sample())[static_cast<size_t>(prediction % per_sample() + 1)];
}

template <class Visit>
Status Yardstick::for_logits(const States& states, ThreadPool& pool, const Visit& visit) {
  const int64_t width = model_->spec().vocabulary, most = rows_at_a_time(per_sample(), width);
  logits_.reserve(most * width);
  for (int64_t sample = 0; sample < text_->count; ++sample)
    for (int64_t row = 0; row < per_sample(); row += most) {
      const int64_t count = std::min(most, per_sample() - row);
      const float* const hidden = states.data() + (sample * text_->length + row) * one_block_.hidden;
      NIBBLE_DO(model_->logits_of(hidden, count, logits_.data(), workspace_, pool));
      visit(sample * per_sample() + row, count, logits_.data());
    }
  return {};
}

Result<Fidelity> Yardstick::measure(const States& states, ThreadPool& pool) {
  const int64_t width = model_->spec().vocabulary;
  std::vector<Fidelity> each(softmax_.size());
  const Status run = for_logits(states, pool, [&](int64_t first, int64_t count, const float* rows) {
    pool.run(count, [&](int64_t row) {
      const auto at = static_cast<size_t>(first + row), size = static_cast<size_t>(width);
      const std::span<const float> expected(reference_.data() + (first + row) * width, size);
      const std::span<const float> found(rows + row * width, size);
      const Softmax q = softmax_of(found);
      each[at] = {kl_divergence(expected, softmax_[at], found, q),
                  -q.log_of(found[static_cast<size_t>(target(first + row))])};
    });
  });
  if (!run && run.error().code == ErrorCode::failure) return Fidelity{kBroken, kBroken};  // not finite
  NIBBLE_DO(run);
  Fidelity mean;
  for (const Fidelity& token : each) {
    mean.kl += token.kl / static_cast<double>(each.size());
    mean.nll += token.nll / static_cast<double>(each.size());
  }
  return mean;
}

Result<Samples> write_samples(const Model& model, int64_t count, int64_t length, uint64_t seed, ThreadPool& pool) {
  const int64_t width = model.spec().vocabulary;
  Random random(seed);
  std::vector<Sequence> sequences;
  std::vector<Sampler> samplers;
  std::vector<int32_t> next;
  for (int64_t i = 0; i < count; ++i) {
    sequences.push_back(model.new_sequence());
    SamplingOptions sampling;
    sampling.temperature = 1;
    sampling.seed = random.next();
    samplers.emplace_back(sampling);
    next.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(width))));
  }
  Samples out{count, length, std::vector<int32_t>(static_cast<size_t>(count * length)), {}};
  AlignedBuffer<float> logits(count * width);
  std::vector<int64_t> wanted(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) wanted[static_cast<size_t>(i)] = i;
  Workspace workspace;
  for (int64_t at = 0; at < length; ++at) {
    for (int64_t i = 0; i < count; ++i) out.tokens[static_cast<size_t>(i * length + at)] = next[static_cast<size_t>(i)];
    if (at + 1 == length) break;
    std::vector<Segment> segments;
    for (Sequence& sequence : sequences) segments.push_back({&sequence, 1, 0});
    NIBBLE_DO(model.forward(next, segments, wanted, logits.data(), workspace, pool));
    for (int64_t i = 0; i < count; ++i)
      next[static_cast<size_t>(i)] =
          samplers[static_cast<size_t>(i)].next({logits.data() + i * width, static_cast<size_t>(width)});
  }
  out.hash = Sha256().add(bytes_of(out.tokens)).finish();
  return out;
}

}  // namespace nibble::search
