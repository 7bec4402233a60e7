// Bits against divergence: the models that a search measured, and their Pareto front.
#pragma once

#include <string>

#include "search/search.h"

namespace nibble::search {

// An SVG document, legible on light and dark ground; bits per value across, KL logarithmic upward. Points whose KL is
// not positive, or which are broken, are left out.
std::string svg(const SearchReport& report, const std::string& title);

}  // namespace nibble::search
