// Texts as lines, as files of texts and of JSON lines are read.
#pragma once

#include <string_view>
#include <vector>

namespace nibble {

// ASCII white space.
inline constexpr std::string_view kBlanks = " \t\n\v\f\r";
bool is_blank(std::string_view text);

// The lines of a text without their ends (LF or CRLF). A line end at the end of the text begins no further line.
std::vector<std::string_view> lines_of(std::string_view text);

}  // namespace nibble
