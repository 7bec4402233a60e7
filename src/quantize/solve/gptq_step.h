// The step "gptq" of a linear (solve/gptq.h):
//   {"order": "natural" | "kept-last" | "activation", "damp": 0..10, "block": columns, "clip": {...},
//    "dead": "zero" | "round", "pattern": "2:4"}
#pragma once

#include "quantize/step.h"

namespace nibble {

Result<StepPointer> read_gptq(JsonReader& parameters);

}  // namespace nibble
