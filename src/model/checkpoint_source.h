// A Hugging Face checkpoint of any family as a ModelSource.
#pragma once

#include <filesystem>
#include <memory>

#include "core/json.h"
#include "core/result.h"
#include "model/model.h"

namespace nibble {

// `config` is the folder's config.json. Names, types and shapes of all tensors are checked here, against the Spec:
// `corrupt` for one that is missing, of another shape, or not part of the model (names in the checkpoint that no
// forward pass reads are let through: stored rotary tables and masks, and a copy of a tied head), `unsupported` for
// a type other than F32, F16 and BF16. Values are checked when they are read.
Result<std::unique_ptr<ModelSource>> open_checkpoint(const std::filesystem::path& folder, Json config);

}  // namespace nibble
