#include "quantize/recipe/steps.h"

#include "quantize/observe/observe_step.h"
#include "quantize/solve/allocate_step.h"
#include "quantize/solve/apportion_step.h"
#include "quantize/solve/gptq_step.h"
#include "quantize/solve/levels_steps.h"
#include "quantize/solve/round_step.h"
#include "quantize/solve/split_step.h"
#include "quantize/transform/gather_step.h"
#include "quantize/transform/hadamard_step.h"

namespace nibble {
namespace {

constexpr StepRow kSteps[] = {
    {"gather", Scope::model, false, read_gather},    {"observe", Scope::site, false, read_observe},
    {"split", Scope::site, false, read_split},       {"allocate", Scope::site, false, read_allocate},
    {"hadamard", Scope::site, false, read_hadamard}, {"apportion", Scope::linear, false, read_apportion},
    {"sparse", Scope::linear, false, read_sparse},   {"kmeans", Scope::linear, false, read_kmeans},
    {"binary", Scope::linear, false, read_binary},   {"bell", Scope::linear, false, read_bell},
    {"round", Scope::linear, true, read_round},      {"gptq", Scope::linear, true, read_gptq},
};

}  // namespace

std::span<const StepRow> step_rows() { return kSteps; }

const StepRow* find_step(std::string_view kind) {
  for (const StepRow& row : kSteps)
    if (row.kind == kind) return &row;
  return nullptr;
}

Result<StepPointer> read_step(const StepRow& row, const Json& parameters, std::string where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(parameters, std::move(where), ErrorCode::usage));
  NIBBLE_TRY(StepPointer step, row.read(reader));
  NIBBLE_DO(reader.refuse_unknown());
  return step;
}

Result<bool> read_pattern(JsonReader& parameters) {
  NIBBLE_TRY(const std::string pattern, parameters.string("pattern", ""));
  if (pattern.empty() || pattern == "2:4") return !pattern.empty();
  return fail(ErrorCode::usage, "{}: \"pattern\" is \"{}\"; supported is \"2:4\"", parameters.where(), pattern);
}

}  // namespace nibble
