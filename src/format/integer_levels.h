// The levels of a block format as integers of 8 bits, where they are integers but for a power of two: what kernels can
// multiply exactly without floats.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "format/number_format.h"

namespace nibble {

struct IntegerLevels {
  int shift = 0;                // level = of_code * 2^-shift
  std::vector<int8_t> of_code;  // 2^bits entries
};

// Empty for formats whose runs have no scale of their own, and where a level does not fit.
std::optional<int> integer_shift(const NumberFormat& format);  // allocates nothing: asked for every prepared input
std::optional<IntegerLevels> integer_levels(const NumberFormat& format);

}  // namespace nibble
