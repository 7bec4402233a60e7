// How far from its original a model of some bit width may be (docs/evidence.md says what they were derived from).
#pragma once

#include <string>

#include "core/result.h"
#include "model/model.h"

namespace nibble {

struct DivergenceLimits {
  double max_kl = 0;                // mean KL divergence, nats per token
  double min_agreement = 0;         // share of tokens whose most probable token is the same
  double max_perplexity_ratio = 0;  // candidate / reference
};

// Average stored bits of the weights of the blocks' linears (codes only; 16 for floats of any width), and the fewest
// bits that the input of any linear is quantized to (16 when none is).
struct BitWidths {
  double weights = 16;
  int activations = 16;
};
// From the formats in config.json; a plain folder has 16 and 16.
Result<BitWidths> bit_widths_of(const ModelSource& source);

DivergenceLimits default_limits(const BitWidths& widths);
std::string to_string(const BitWidths& widths);  // "4.8-bit weights, 4-bit activations"

}  // namespace nibble
