// How undecided a prediction is.
#pragma once

#include <span>

namespace nibble {

// -sum of p log p, nats, of the softmax of a row of logits: 0 .. log(vocabulary), which is noise.
double entropy_of(std::span<const float> logits);

}  // namespace nibble
