// Loading a model's weights with the options of the public interface.
#pragma once

#include <nibble/language_model.h>

#include "core/threads.h"
#include "runtime/model.h"

namespace nibble {

// The cache is of the type asked for, or else what the recipe of a quantized model says, or else f32.
Result<Model> load_model(const ModelSource& source, const LoadOptions& options, ThreadPool& pool);

}  // namespace nibble
