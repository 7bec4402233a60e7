// Parts of the schema that both the parser and the planner of recipes read.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "quantize/recipe/steps.h"

namespace nibble {

// One step of a recipe with the parameters that hold for some linear.
struct PlannedStep {
  std::string id;
  const StepRow* row = nullptr;
  StepPointer step;
  Json parameters;
};

// Steps on the model come before those on sites, these before those on linears, exactly one step solves, and every
// statistic is observed before it is read.
Status check_sequence(const std::vector<PlannedStep>& steps, std::string_view where);

// Parameters with others put over them, key by key; null removes a key.
Json with_parameters(Json parameters, const Json& over);

// A list of block numbers, "first:N" or "last:N".
Status check_blocks(const Json& blocks, std::string_view where);
bool matches_blocks(const Json& blocks, int64_t block, int64_t layers);

}  // namespace nibble
