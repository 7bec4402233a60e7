// The list of steps that recipes may name.
#pragma once

#include <span>
#include <string_view>

#include "quantize/step.h"

namespace nibble {

// In the order in which they are done.
enum class Scope : uint8_t { model, site, linear };

struct StepRow {
  std::string_view kind;
  Scope scope;
  bool solves;  // leaves quantized weights: a recipe has exactly one such step
  // Reads the parameters; leaves unknown keys unread, for the caller to refuse.
  Result<StepPointer> (*read)(JsonReader& parameters);
};

std::span<const StepRow> step_rows();
const StepRow* find_step(std::string_view kind);  // nullptr when there is none
// Reads all parameters of one step and refuses unknown ones by name. `where` starts the message.
Result<StepPointer> read_step(const StepRow& row, const Json& parameters, std::string where);

}  // namespace nibble
