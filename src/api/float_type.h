// The public names of the float types as the layers beneath know them.
#pragma once

#include <nibble/language_model.h>

#include "format/number_format.h"

namespace nibble {

Levels levels_of(FloatType type);

}  // namespace nibble
