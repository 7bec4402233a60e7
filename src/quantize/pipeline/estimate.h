// What a run needs, from shapes alone.
#pragma once

#include <vector>

#include "model/model.h"
#include "quantize/quantize.h"
#include "quantize/recipe/plan.h"

namespace nibble {

// Sizes of a run in bytes. `chunk` is the number of samples that the memory limit allows to run at a time.
struct Needs {
  int64_t fixed = 0;       // the largest block with its statistics and solver, or the globals: without text
  int64_t per_sample = 0;  // of calibration text while it runs through a block
  int64_t output = 0;      // all tensors
  int64_t hidden = 0;      // hidden states between blocks, and what calibration showed of the channels
  int64_t chunk = 1;
  int64_t peak() const { return fixed + chunk * per_sample; }
};

// Tokens per sample: options.length, or min(2048, the model's positions). `usage` error when it is too long.
Result<int64_t> sample_length(const QuantizeOptions& options, const Spec& spec);

// `usage` error naming the least memory when not even one sample fits options.memory_limit.
Result<Needs> needs_of(const QuantizeOptions& options, const ModelSource& source,
                       const std::vector<std::vector<SitePlan>>& plans, int64_t length);

// One line for each role and way of treating it.
std::vector<std::string> describe(const Spec& spec, const std::vector<std::vector<SitePlan>>& plans);

// All blocks planned, so that every mistake of the recipe is found before the work starts.
Result<std::vector<std::vector<SitePlan>>> plan_all(const Recipe& recipe, const Spec& spec);

}  // namespace nibble
