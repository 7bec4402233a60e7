// The step "observe": {"statistics": ["absmax", "gram"]} of a site, on the calibration text.
// The pipeline runs the text; the step says what is to be collected.
#pragma once

#include "quantize/step.h"

namespace nibble {

Result<StepPointer> read_observe(JsonReader& parameters);

}  // namespace nibble
