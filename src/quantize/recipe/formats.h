// Which number formats a recipe may give to weights and activations.
#pragma once

#include <string_view>

#include "core/result.h"
#include "format/number_format.h"

namespace nibble {

// Weights: any plain float, or integers of 2 to 8 bits with scales by row or group. `where` starts the message.
Result<NumberFormat> parse_weights(std::string_view text, std::string_view where);
// Activations: f32, or integers of 2 to 8 bits with a scale per token.
Result<NumberFormat> parse_activations(std::string_view text, std::string_view where);

}  // namespace nibble
