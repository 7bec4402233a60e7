// The public names of the float types as the layers beneath know them.
#pragma once

#include <nibble/language_model.h>

#include "core/result.h"
#include "format/number_format.h"
#include "kernels/linear.h"

namespace nibble {

Levels levels_of(FloatType type);
// `usage` for bf16, in which nothing is cached.
Result<CacheType> cache_type_of(FloatType type);

}  // namespace nibble
