// Choosing the next token.
#pragma once

#include <cstdint>
#include <span>
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

// Filters in the order temperature, top-k, top-p, min-p (that of Hugging Face transformers), then draws by inverse
// transform over ids sorted by descending probability, ties to the lower id: the same draw on every machine.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {}
  int32_t next(std::span<const float> logits);

 private:
  SamplingOptions options_;
  Random random_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace nibble
