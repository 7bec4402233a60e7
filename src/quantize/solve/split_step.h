// The step "split" of a site (solve/split.h): which columns stay in 16 bits.
//   {"by": "absmax", "columns": 256 | "1/16", "at_most": 256, "scale_with": "width", "threshold": 3,
//    "as": "f16" | "bf16"}: bf16 columns read their input rounded to bf16, which a 16-bit multiplier does at its own
//    speed
#pragma once

#include "quantize/step.h"

namespace nibble {

Result<StepPointer> read_split(JsonReader& parameters);

}  // namespace nibble
