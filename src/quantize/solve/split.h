// Which input columns of a site stay in 16 bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble {

// A number of columns: absolute, or a fraction of a width.
struct KeptCount {
  int64_t columns = 0;
  int64_t numerator = 0, denominator = 1;  // used when numerator > 0
  int64_t at_most = INT64_MAX;
  // Count for the hidden width, then multiply by inputs / hidden: wide inputs (the MLP's) keep as large a part.
  bool scale_with_width = false;
  double threshold = 0;  // nothing is kept when no channel exceeds it
};

// Columns to keep of a site with `inputs` inputs in a model of width `hidden`: min(columns or floor(fraction * width),
// at_most) with width = inputs, or with scale_with_width, width = hidden and the result times inputs / hidden, rounded
// down. Raised until `divisor` divides the rest.
int64_t kept_count(const KeptCount& rule, int64_t inputs, int64_t hidden, int64_t divisor);

// The `count` columns of the greatest absmax, ascending; among equals the higher column.
std::vector<int32_t> loudest_columns(std::span<const float> absmax, int64_t count);

}  // namespace nibble
