#include "measure/entropy.h"

#include <cmath>
#include <vector>

#include "measure/softmax.h"

namespace nibble {

// The divergence from the uniform distribution is what an entropy lacks to log(vocabulary).
double entropy_of(std::span<const float> logits) {
  const std::vector<float> uniform(logits.size(), 0.0f);
  const double lacking = kl_divergence(logits, softmax_of(logits), uniform, softmax_of(uniform));
  return std::fmax(std::log(static_cast<double>(logits.size())) - lacking, 0.0);
}

}  // namespace nibble
