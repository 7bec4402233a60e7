// The families' readers, named by families.cpp.
#pragma once

#include "model/families.h"

namespace nibble {

Result<Reading> read_llama(JsonReader& config);
Result<Reading> read_mistral(JsonReader& config);
Result<Reading> read_qwen2(JsonReader& config);
Result<Reading> read_opt(JsonReader& config);
Result<Reading> read_falcon(JsonReader& config);

}  // namespace nibble
