// Names that come from files and name other files beside them.
#pragma once

#include <string>
#include <string_view>

#include "core/result.h"

namespace nibble {

// A name of a file inside one folder: not empty, at most 255 bytes, no '/' or '\', not "." or "..", no control
// characters. Anything else is a `corrupt` error: a checkpoint must not reach outside its folder. `where` starts the
// message. (The file may still be a symbolic link: the Hugging Face cache consists of them.)
Status check_file_name(std::string_view name, std::string_view where);

// The text in JSON quotes, escaped and cut to about 100 bytes: how messages show names from files.
std::string in_quotes(std::string_view text);

bool has_control_characters(std::string_view text);

}  // namespace nibble
