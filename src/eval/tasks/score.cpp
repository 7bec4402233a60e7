#include "eval/tasks/score.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "measure/rows.h"
#include "measure/softmax.h"

namespace nibble {
namespace {

// Ids that are read (all but the last).
int64_t inputs_of(const Continuation& answer) { return static_cast<int64_t>(answer.ids.size()) - 1; }

// How many inputs all answers begin with.
int64_t common_inputs(const Answers& answers) {
  const auto& first = answers.front().ids;
  int64_t common = inputs_of(answers.front());
  for (const Continuation& other : answers) {
    const auto end = first.begin() + std::min(common, inputs_of(other));
    common = std::mismatch(first.begin(), end, other.ids.begin()).first - first.begin();
  }
  return common;
}

int64_t longest_inputs(const Answers& answers) {
  int64_t longest = 0;
  for (const Continuation& answer : answers) longest = std::max(longest, inputs_of(answer));
  return longest;
}

// A row of logits that predicts the next token of one answer. Several answers may read one row.
struct Prediction {
  size_t row = 0;  // in Pass::rows
  int32_t target = 0;
  size_t item = 0;
  AnswerScore* score = nullptr;
  double log_probability = 0;
  bool greedy = false;
};

// One forward pass: runs of tokens, the rows whose logits are wanted, and what they predict, both in ascending order.
struct Pass {
  std::vector<int32_t> tokens;
  std::vector<Segment> segments;
  std::vector<int64_t> rows;
  std::vector<Prediction> predictions;

  // Inputs [begin, end) of answers that agree on them; each answer gets the predictions that these make for it.
  void add(Sequence& sequence, size_t item, std::span<const Continuation> answers, std::span<AnswerScore> scores,
           int64_t begin, int64_t end) {
    if (begin == end) return;
    const std::vector<int32_t>& ids = answers.front().ids;
    for (int64_t at = begin; at < end; ++at) {
      bool wanted = false;
      for (size_t i = 0; i < answers.size(); ++i) {
        if (at + 1 < answers[i].start) continue;
        wanted = true;
        predictions.push_back({rows.size(), answers[i].ids[static_cast<size_t>(at + 1)], item, &scores[i]});
      }
      if (wanted) rows.push_back(static_cast<int64_t>(tokens.size()));
      tokens.push_back(ids[static_cast<size_t>(at)]);
    }
    segments.push_back({&sequence, end - begin, 0});
  }
};

class Scorer {
 public:
  Scorer(const Model& model, const ScoreOptions& options, ThreadPool& pool)
      : model_(model), options_(options), pool_(pool) {}

  Result<std::vector<std::vector<AnswerScore>>> run(std::span<const Answers> items) {
    std::vector<std::vector<AnswerScore>> scores(items.size());
    std::vector<size_t> order(items.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return longest_inputs(items[a]) > longest_inputs(items[b]); });
    NIBBLE_DO(check_ids(items));
    for (size_t first = 0; first < order.size();) {
      const size_t count = batch_from(items, std::span(order).subspan(first));
      NIBBLE_DO(score_batch(items, std::span(order).subspan(first, count), scores));
      first += count;
    }
    return scores;
  }

 private:
  // The forward pass checks what it reads, but a token may be predicted in a pass before the one that reads it.
  Status check_ids(std::span<const Answers> items) const {
    for (const Answers& answers : items)
      for (const Continuation& answer : answers)
        for (const int32_t id : answer.ids)
          if (id < 0 || id >= model_.spec().vocabulary)
            return fail(ErrorCode::usage, "token id {} is outside the model's vocabulary of {}", id,
                        model_.spec().vocabulary);
    return {};
  }

  int64_t shared_inputs(const Answers& answers) const {
    return options_.share || answers.size() == 1 ? common_inputs(answers) : 0;
  }

  // How many of the next items fit one batch: the larger of an item's passes counts.
  size_t batch_from(std::span<const Answers> items, std::span<const size_t> order) const {
    int64_t tokens = 0;
    size_t count = 0;
    for (; count < order.size(); ++count) {
      const Answers& answers = items[order[count]];
      const int64_t shared = shared_inputs(answers);
      tokens += std::max(shared, longest_inputs(answers) - shared);
      if (count > 0 && tokens > options_.batch_tokens) break;
    }
    return count;
  }

  Status score_batch(std::span<const Answers> items, std::span<const size_t> batch,
                     std::vector<std::vector<AnswerScore>>& scores) {
    while (sequences_.size() < batch.size()) sequences_.push_back(model_.new_sequence());
    int64_t tokens = 0;
    size_t most_answers = 0;
    Pass beginnings;
    for (size_t i = 0; i < batch.size(); ++i) {
      const Answers& answers = items[batch[i]];
      std::vector<AnswerScore>& found = scores[batch[i]];
      found.resize(answers.size());
      for (size_t j = 0; j < answers.size(); ++j) found[j].tokens = answers[j].tokens();
      sequences_[i].clear();
      beginnings.add(sequences_[i], batch[i], answers, found, 0, shared_inputs(answers));
      most_answers = std::max(most_answers, answers.size());
      tokens += tokens_to_run(answers, options_.share);
    }
    NIBBLE_DO(run_pass(beginnings));
    for (size_t j = 0; j < most_answers; ++j) NIBBLE_DO(score_rest(items, batch, j, scores));
    if (options_.finished) options_.finished(tokens, static_cast<int64_t>(batch.size()));
    return {};
  }

  // What answer j of each item has for itself.
  Status score_rest(std::span<const Answers> items, std::span<const size_t> batch, size_t j,
                    std::vector<std::vector<AnswerScore>>& scores) {
    Pass rests;
    for (size_t i = 0; i < batch.size(); ++i) {
      const Answers& answers = items[batch[i]];
      if (j >= answers.size()) continue;
      const int64_t shared = shared_inputs(answers);
      NIBBLE_CHECK(sequences_[i].truncate(shared) == shared);  // the length before the last pass
      rests.add(sequences_[i], batch[i], std::span(answers).subspan(j, 1), std::span(scores[batch[i]]).subspan(j, 1),
                shared, inputs_of(answers[j]));
    }
    return run_pass(rests);
  }

  Status run_pass(Pass& pass) {
    if (pass.tokens.empty()) return {};
    NIBBLE_DO(model_.run_blocks(pass.tokens, pass.segments, workspace_, pool_));
    const int64_t total = static_cast<int64_t>(pass.rows.size()), width = model_.spec().vocabulary;
    if (total == 0) return {};
    auto next = pass.predictions.begin();
    return for_each_chunk(total, width, {}, [&](int64_t first, int64_t count, float* logits) -> Status {
      const int64_t hidden = model_.spec().hidden;
      hidden_.reserve(count * hidden);
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(hidden_.data() + i * hidden,
                    workspace_.hidden.data() + pass.rows[static_cast<size_t>(first + i)] * hidden,
                    static_cast<size_t>(hidden) * sizeof(float));
      if (Status done = model_.logits_of(hidden_.data(), count, logits, workspace_, pool_); !done)
        return located(std::move(done.error()), next, row_not_finite(logits, count, width), first);
      const auto end = std::find_if(next, pass.predictions.end(), [&](const Prediction& prediction) {
        return prediction.row >= static_cast<size_t>(first + count);
      });
      read_rows({next, end}, first, count, logits);
      next = end;
      return Status();
    });
  }

  // The error of a row that is not finite (-1: of something else), counted from `first`, by the item that it is for.
  static tl::unexpected<Error> located(Error error, std::vector<Prediction>::const_iterator prediction, int64_t row,
                                       int64_t first) {
    if (row < 0) return tl::unexpected(std::move(error));
    while (prediction->row != static_cast<size_t>(first + row)) ++prediction;
    return fail(error.code, "item {} (from 0): logits are not finite: an activation overflowed or a weight is bad",
                prediction->item);
  }

  // Fills in and adds up the predictions that `count` rows of logits from row `first` on make.
  void read_rows(std::span<Prediction> predictions, int64_t first, int64_t count, const float* logits) {
    const auto width = static_cast<size_t>(model_.spec().vocabulary);
    pool_.run(count, [&](int64_t i) {
      const auto row = static_cast<size_t>(first + i);
      const std::span<const float> values(logits + static_cast<size_t>(i) * width, width);
      const Softmax softmax = softmax_of(values);
      const auto best =
          static_cast<int32_t>(std::find(values.begin(), values.end(), softmax.greatest) - values.begin());
      auto at = std::lower_bound(predictions.begin(), predictions.end(), row,
                                 [](const Prediction& prediction, size_t wanted) { return prediction.row < wanted; });
      for (; at != predictions.end() && at->row == row; ++at) {
        at->log_probability = softmax.log_of(values[static_cast<size_t>(at->target)]);
        at->greedy = at->target == best;
      }
    });
    for (const Prediction& prediction : predictions) {
      prediction.score->log_likelihood += prediction.log_probability;
      prediction.score->greedy = prediction.score->greedy && prediction.greedy;
    }
  }

  const Model& model_;
  const ScoreOptions& options_;
  ThreadPool& pool_;
  Workspace workspace_;
  std::vector<Sequence> sequences_;
  AlignedBuffer<float> hidden_;
};

}  // namespace

int64_t tokens_to_run(const Answers& answers, bool share) {
  const int64_t shared = share || answers.size() == 1 ? common_inputs(answers) : 0;
  int64_t tokens = shared;
  for (const Continuation& answer : answers) tokens += inputs_of(answer) - shared;
  return tokens;
}

Result<std::vector<std::vector<AnswerScore>>> score_answers(const Model& model, std::span<const Answers> items,
                                                            const ScoreOptions& options, ThreadPool& pool) {
  return Scorer(model, options, pool).run(items);
}

}  // namespace nibble
