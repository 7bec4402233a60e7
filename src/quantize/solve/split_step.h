// The step "split" of a site (solve/split.h): which columns stay in 16 bits.
//   {"by": "absmax", "columns": 256 | "1/16", "at_most": 256, "scale_with": "width", "threshold": 3, "as": "f16"}
#pragma once

#include "quantize/step.h"

namespace nibble {

Result<StepPointer> read_split(JsonReader& parameters);

}  // namespace nibble
