// The step "gptq" of a linear (solve/gptq.h):
//   {"order": "natural" | "kept-last" | "activation", "damp": 0..10, "block": columns, "clip": {...},
//    "dead": "zero" | "round", "pattern": "2:4"}
#pragma once

#include <memory>

#include "quantize/solve/gptq.h"
#include "quantize/step.h"

namespace nibble {

Result<StepPointer> read_gptq(JsonReader& parameters);

// The factorisation for a linear of a site whose Gram matrix was observed. Linears that are solved in the same order
// with the same damping share it. `sparse24`: the dense columns in stored order.
Result<std::shared_ptr<const GptqFactor>> shared_factor(LinearWork& work, ColumnOrder order, bool sparse24, double damp,
                                                        ThreadPool& pool);

}  // namespace nibble
