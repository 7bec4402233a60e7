// The ids that end a generation, as the files of a model folder name them.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model.h"

namespace nibble {

// "eos_token_id" of generation_config.json, or else of config.json: a number or a list of them. Empty when neither
// says; whoever has the tokenizer then asks that. `corrupt` when generation_config.json is no JSON.
Result<std::vector<int32_t>> end_tokens(const ModelSource& source);

}  // namespace nibble
