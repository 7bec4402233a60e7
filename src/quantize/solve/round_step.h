// The step "round" of a linear (solve/round.h): {"clip": {"steps": 80, "norm": 2.4}, "pattern": "2:4"}
#pragma once

#include "quantize/step.h"

namespace nibble {

Result<StepPointer> read_round(JsonReader& parameters);

}  // namespace nibble
