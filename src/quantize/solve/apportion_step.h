// The step "apportion" of a linear in int:gN: bits for each group of its columns (solve/apportion.h). Linears in other
// formats pass through.
//   {"bits": 3, "count": "stored" | "codes", "by": "error" | "salience", "least": 1, "most": 8, "damp": 0.01, "clip":
//   {..}}
// `bits` a weight on average over the model: what a linear takes less or more is handed on to the next. They count as
// stored (codes, scales, offsets, widths, kept columns), or codes alone, as published.
//   error     the least sum of what GPTQ expects to lose (group_costs), for any average
//   salience  the published rule, for whole numbers of bits of the codes: as many groups get one bit more as get one
//             less, by their salience; how many is what the output's error on the calibration text is least with,
//             rounded to nearest
#pragma once

#include "quantize/step.h"

namespace nibble {

Result<StepPointer> read_apportion(JsonReader& parameters);

}  // namespace nibble
