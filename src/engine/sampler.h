// Choosing the next token.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/random.h"

namespace nibble {

struct SamplingOptions {
  double temperature = 0;  // 0: greedy, ties to the lower id
  int64_t top_k = 0;       // 0: off
  double top_p = 1;        // 1: off
  double min_p = 0;        // 0: off; keeps tokens with p >= min_p * max p
  uint64_t seed = 0;
};

// Filters in the order temperature, top-k, top-p, min-p (that of Hugging Face transformers; each sees the probabilities
// that the one before left, and the likeliest token always stays), then draws by inverse transform over ids sorted by
// descending probability, ties to the lower id: the same draw on every machine. One thread at a time.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {}
  // logits: one per id, finite, at least one.
  int32_t next(std::span<const float> logits);

 private:
  static int32_t greedy(std::span<const float> logits);
  void rank(std::span<const float> logits);
  void keep_top_p();
  void keep_min_p();
  int32_t draw();
  double total() const;

  SamplingOptions options_;
  Random random_;
  std::vector<std::pair<double, int32_t>> candidates_;  // probability up to a common factor, id
};

}  // namespace nibble
