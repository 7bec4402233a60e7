// How near a changed model's predictions are to the float model's on a text, with the states between blocks at hand, so
// that what comes before a change is not computed again.
#pragma once

#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/threads.h"
#include "measure/softmax.h"
#include "quantize/pipeline/samples.h"
#include "runtime/model.h"

namespace nibble::search {

// Means over the predicted tokens, nats: the divergence from the float model, and the negative log-likelihood of the
// text.
struct Fidelity {
  double kl = 0, nll = 0;
};
// What a model whose logits are not finite is worth.
inline constexpr double kBroken = 1e6;

// The residual stream of all tokens of the text, [tokens][hidden].
using States = AlignedBuffer<float>;

class Yardstick {
 public:
  // Runs the model on the text. Every token of a sample but its first is predicted. Both must outlive this. Keeps the
  // logits of all predicted tokens, 4 bytes each.
  static Result<Yardstick> make(const Model& model, const Samples& text, ThreadPool& pool);

  int64_t tokens() const { return text_->count * text_->length; }
  double reference_nll() const { return reference_nll_; }
  // SHA-256 of the tokens and of the model's logits: the same for the same model, text and arithmetic.
  const std::string& fingerprint() const { return fingerprint_; }

  const States& before_first_block() const { return first_; }
  States copy(const States& states) const;
  // In place, some samples at a time.
  void run_block(const PackedBlock& block, const AttentionFormats& attention, States& states, ThreadPool& pool);
  // Of the states after the last block.
  Result<Fidelity> measure(const States& states, ThreadPool& pool);

 private:
  Yardstick(const Model& model, const Samples& text);
  Status embed(ThreadPool& pool);
  // Calls visit(first prediction, count, rows [count][vocabulary]) for the predictions of some tokens at a time.
  template <class Visit>
  Status for_logits(const States& states, ThreadPool& pool, const Visit& visit);
  int64_t per_sample() const { return text_->length - 1; }  // predictions
  int32_t target(int64_t prediction) const;

  const Model* model_;
  const Samples* text_;
  Spec one_block_;              // the model's, with one layer: each block runs with a cache of its own
  AttentionFormats attention_;  // of the sequences
  std::vector<Sequence> sequences_;
  Workspace workspace_;
  States first_;
  AlignedBuffer<float> reference_, logits_;  // [predictions][vocabulary]; some rows
  std::vector<Softmax> softmax_;             // by prediction
  double reference_nll_ = 0;
  std::string fingerprint_;
};

// A text that the model itself writes, for when none is given: every sample begins with a random token and goes on with
// tokens drawn from the model's predictions.
Result<Samples> write_samples(const Model& model, int64_t count, int64_t length, uint64_t seed, ThreadPool& pool);

}  // namespace nibble::search
