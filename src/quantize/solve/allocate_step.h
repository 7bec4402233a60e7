// The step "allocate" of a site: bits for each input channel, shared by its linears in code:col (solve/allocate.h).
//   {"bits": 3.2, "count": "stored" | "codes", "by": "error" | "norm", "swap": 0.1, "unit": 32, "least": 1, "most": 8}
// `bits` a weight on average over the model: what sites take less or more than that is handed on to the next. They
// count as stored (codes, tables, widths, kept columns and single weights kept apart), or codes alone, as published.
//   norm   channels of the greatest norm of their input on the calibration text get one bit more than the others
//   error  the least sum of (norm of the input)^2 x (squared error of the weights in so many levels)
#pragma once

#include "quantize/step.h"

namespace nibble {

Result<StepPointer> read_allocate(JsonReader& parameters);

}  // namespace nibble
