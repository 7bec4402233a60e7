// Text inside HTML and SVG documents.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

// Safe between tags and inside a quoted attribute: & < > " ' become references; control characters and invalid UTF-8,
// which HTML and XML forbid, become U+FFFD.
std::string escaped(std::string_view text);

}  // namespace nibble
