// Characters that are newer than the regular expression engine's tables.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

// Debian's Oniguruma knows Unicode 14; the reference tokenizers match with Unicode 16. Returns the text with every
// character assigned in between replaced by an older one of the same general category and the same length in UTF-8,
// so that patterns match the same and offsets stay. Without such characters, which is the rule, the result is the
// text itself; else it points into `store`.
std::string_view with_known_characters(std::string_view text, std::string& store);
char32_t known_character(char32_t code);

}  // namespace nibble
