// For *_test.cpp files only: logits that were written down, and texts for them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "core/random.h"
#include "measure/logits.h"
#include "runtime/random_source.h"

namespace nibble::testing {

class GivenLogits final : public LogitSource {
 public:
  GivenLogits(ScoredText text, int64_t vocabulary, std::vector<float> rows)
      : text_(std::move(text)), vocabulary_(vocabulary), rows_(std::move(rows)) {}
  const ScoredText& text() const override { return text_; }
  int64_t vocabulary() const override { return vocabulary_; }
  Status read(int64_t count, float* logits) override {
    const auto begin = rows_.begin() + next_ * vocabulary_;
    std::copy(begin, begin + count * vocabulary_, logits);
    next_ += count;
    return {};
  }
  void rewind() { next_ = 0; }
  std::vector<float>& rows() { return rows_; }

 private:
  ScoredText text_;
  int64_t vocabulary_, next_ = 0;
  std::vector<float> rows_;
};

inline std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary) {
  Random random(9);
  std::vector<int32_t> out;
  for (int64_t i = 0; i < count; ++i)
    out.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary))));
  return out;
}

// A random model that answers with NaN from the first such token of a sequence on.
class PoisonedSource final : public RandomSource {
 public:
  PoisonedSource(const Spec& spec, int32_t poison) : RandomSource(spec), poison_(poison) {}
  Result<GlobalWeights> globals() const override {
    NIBBLE_TRY(GlobalWeights out, RandomSource::globals());
    const auto row_bytes = static_cast<size_t>(out.embedding.columns) * sizeof(float);
    const std::vector<float> row(static_cast<size_t>(out.embedding.columns), std::nanf(""));
    std::memcpy(out.embedding.codes.data() + static_cast<size_t>(poison_) * row_bytes, row.data(), row_bytes);
    return out;
  }

 private:
  int32_t poison_;
};

// A text of one passage that predicts these tokens.
inline ScoredText predicting(std::vector<int32_t> targets) {
  targets.insert(targets.begin(), 0);
  const auto count = static_cast<int64_t>(targets.size());
  return {std::move(targets), {{0, count, 1}}};
}

inline GivenLogits random_rows(const ScoredText& text, int64_t vocabulary, uint64_t seed, float spread = 3) {
  Random random(seed);
  std::vector<float> rows(static_cast<size_t>(text.predictions() * vocabulary));
  for (float& x : rows) x = spread * random.normal();
  return {text, vocabulary, std::move(rows)};
}

}  // namespace nibble::testing
