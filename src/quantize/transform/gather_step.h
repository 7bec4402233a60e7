// The step "gather": {} of a model: channels are put in descending order of magnitude, so that large ones share their
// blocks with large ones and small ones keep their bits. The order is folded into the weights (model/channel_order.h)
// and costs nothing at run time.
//
// A channel's magnitude is its largest |x| on the calibration text, seen in the float model; in the residual stream,
// which many sites read, the sum over these sites, each in units of the site's median. Without calibration text weights
// stand for it: |gain| + |bias| of the norm in front of a site, and the length of the rows that make a hidden channel.
#pragma once

#include "quantize/step.h"

namespace nibble {

Result<StepPointer> read_gather(JsonReader& parameters);

}  // namespace nibble
