// Which number formats a recipe may give to weights and activations.
#pragma once

#include <string_view>

#include "core/result.h"
#include "format/number_format.h"

namespace nibble {

// Weights: whatever can be stored (serves_weights). `where` starts the message.
Result<NumberFormat> parse_weights(std::string_view text, std::string_view where);
// Activations: f32, integers with a scale per token, or a block format (serves_activations).
Result<NumberFormat> parse_activations(std::string_view text, std::string_view where);

}  // namespace nibble
