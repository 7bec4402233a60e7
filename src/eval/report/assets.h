// The style sheet and the script of the page: page.css and page.js, embedded when the program is built.
#pragma once

#include <string_view>

namespace nibble::page {

std::string_view page_style();
std::string_view page_script();

}  // namespace nibble::page
