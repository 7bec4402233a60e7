// Four levels for weights whose magnitudes lie like a bell: +-a for those near zero, +-b for the few beyond (BiLLM,
// arXiv 2402.04291, what it calls splitting). a and b are the mean magnitudes on both sides of a threshold, and the
// threshold is the one of the least weighted sum of squared errors: found exactly, among all magnitudes that there are.
#pragma once

#include "quantize/solve/levels.h"

namespace nibble {

// For runs of 4 levels.
LevelFit make_bell();

}  // namespace nibble
