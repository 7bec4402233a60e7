// The softmax of a row of logits in float64: the one definition that likelihoods and divergences share.
//
// Exponentials are our own polynomial and sums run over eight fixed lanes without fused operations, so that a row's
// numbers are the same bits on every machine; the same loops are compiled for several instruction sets.
#pragma once

#include <cstdint>
#include <span>

namespace nibble {

// log softmax(x)[i] = (x[i] - greatest) - log_sum.
struct Softmax {
  float greatest = 0;  // of the logits
  double log_sum = 0;  // log of the sum of exp(x[i] - greatest): 0 .. log(vocabulary)
  double log_of(float logit) const { return (static_cast<double>(logit) - greatest) - log_sum; }
};
Softmax softmax_of(std::span<const float> logits);  // finite, at least one

// sum of p log(p / q), nats, of the softmaxes p and q of two rows of the same length; `p` and `q` are softmax_of(them).
// Exactly 0 for equal rows, never negative; NaN for a row with a NaN.
double kl_divergence(std::span<const float> reference, const Softmax& p, std::span<const float> candidate,
                     const Softmax& q);

// -log softmax(logits)[target].
double negative_log_likelihood(std::span<const float> logits, int32_t target);

// The greatest of at least one value.
float greatest_of(std::span<const float> values);

}  // namespace nibble
