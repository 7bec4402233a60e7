// The step "hadamard": {"block": 16} of a site: its input is rotated, block by block, before it is rounded, and its
// weights are solved and stored for the rotated input. A block's values come out of about one size, whatever single
// large channel it held: what makes formats of four bits with a shared scale usable (MR-GPTQ, arXiv 2509.23202).
#pragma once

#include "quantize/step.h"

namespace nibble {

// "block": a power of two of at least 2 and no more than the inputs; absent: that of the activations.
Result<StepPointer> read_hadamard(JsonReader& parameters);

}  // namespace nibble
