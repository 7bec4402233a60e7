// What a run needs, from shapes alone.
#pragma once

#include <vector>

#include "model/model.h"
#include "quantize/quantize.h"
#include "quantize/recipe/plan.h"

namespace nibble {

// Sizes of a run in bytes. `chunk` is the number of samples that the memory limit allows to run at a time.
struct Needs {
  // Most memory at a time when nothing runs through a block: while linears are solved, and before and after all blocks.
  int64_t solving = 0;
  // A pass of text through a stage of a block: what lies in memory meanwhile, and for each sample of a chunk.
  struct Pass {
    int64_t fixed = 0, per_sample = 0;
  };
  std::vector<Pass> passes;
  int64_t output = 0;  // all tensors
  int64_t hidden = 0;  // states between blocks and between stages, and what calibration showed of the channels
  int64_t chunk = 1;
  int64_t peak() const;
};

// Tokens per sample: options.length, or min(2048, the model's positions). `usage` error when it is too long.
Result<int64_t> sample_length(const QuantizeOptions& options, const Spec& spec);

// `usage` error naming the least memory when not even one sample fits options.memory_limit.
Result<Needs> needs_of(const QuantizeOptions& options, const ModelSource& source,
                       const std::vector<std::vector<SitePlan>>& plans, int64_t length, int threads);

// Work on a site of a block in operations, so that sites can be compared: `tokens` of text that run through the linears
// of the site before it (and for the last one, of itself), statistics, solver. Learning levels counts as what any
// recipe does with a weight: the time left is off by it within the first block, and right after it, since blocks are
// alike.
double work_of(const std::vector<SitePlan>& block, size_t site, const Spec& spec, int64_t tokens);

// Whether each column has bits of its own, which all such linears of a site share; groups of columns have their own.
bool shares_widths(const LinearPlan& plan);
// The linears of a site for which that holds, without their weights.
std::vector<OpenLinear> open_linears(const SitePlan& plan, const Spec& spec);
// `usage` error naming the least where a site cannot do with the bits that the recipe gives it.
Status check_budgets(const std::vector<std::vector<SitePlan>>& plans, const Spec& spec);
// Columns that a site keeps at most: as many as its steps say, whatever the channels are.
int64_t most_kept(const SitePlan& plan, const Spec& spec);
// Bytes of a site's linear's matrix as it will be stored, with `kept` columns beside the others.
int64_t stored_bytes(const SitePlan& site, const LinearPlan& plan, const Shape& shape, int64_t kept);

// One line for each role and way of treating it.
std::vector<std::string> describe(const Spec& spec, const std::vector<std::vector<SitePlan>>& plans);

// All blocks planned, so that every mistake of the recipe is found before the work starts.
Result<std::vector<std::vector<SitePlan>>> plan_all(const Recipe& recipe, const Spec& spec);

}  // namespace nibble
