// Bits against divergence: the models that a search measured, and their Pareto front.
#pragma once

#include <string>
#include <string_view>

#include "search/search.h"

namespace nibble::search {

// An SVG document, legible on light and dark ground; bits per value across, KL logarithmic upward. Points whose KL is
// not positive, or which are broken, are left out.
std::string svg(const SearchReport& report, const std::string& title);

// Text as it stands in a document, outside and inside of quotes.
std::string escaped(std::string_view text);

}  // namespace nibble::search
