// The likelihoods of many continuations, computed with as little work as the forward pass allows.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/result.h"
#include "core/threads.h"
#include "eval/tasks/encode.h"
#include "runtime/model.h"

namespace nibble {

// Of one continuation.
struct AnswerScore {
  double log_likelihood = 0;  // natural logarithm, summed over its tokens in order
  int64_t tokens = 0;
  bool greedy = true;  // every token is the most likely one (the lowest id among equals)
};

// The continuations of one item, which usually begin alike.
using Answers = std::vector<Continuation>;

struct ScoreOptions {
  int64_t batch_tokens = 2048;  // of one forward pass; a longer item has a pass for itself
  bool share = true;            // run what the answers of an item have in common once; false only to measure the gain
  // After each batch: tokens run in it, and items finished by it.
  std::function<void(int64_t tokens, int64_t items)> finished;
};

// Tokens that scoring will run through the model: the common beginning of an item's answers once, the rest of each.
int64_t tokens_to_run(const Answers& answers, bool share = true);

// out[i][j] is the score of items[i][j]. Long items come first, several in a batch: a first forward pass runs the
// common beginnings, then one pass per answer goes on from them in the same key-value caches. The head is computed for
// rows that predict a token of an answer and for no other. Bit-identical whatever the batch and the threads. Errors:
// those of Model::forward; of logits that are not finite, it names the item.
Result<std::vector<std::vector<AnswerScore>>> score_answers(const Model& model, std::span<const Answers> items,
                                                            const ScoreOptions& options, ThreadPool& pool);

}  // namespace nibble
