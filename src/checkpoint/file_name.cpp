#include "checkpoint/file_name.h"

#include <algorithm>

#include "core/json.h"

namespace nibble {

bool has_control_characters(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7F; });
}

std::string in_quotes(std::string_view text) {
  constexpr size_t kShown = 100;
  if (text.size() <= kShown) return dump_json(Json(std::string(text)));
  return dump_json(Json(std::string(text.substr(0, kShown)))) + "...";
}

Status check_file_name(std::string_view name, std::string_view where) {
  auto refuse = [&](std::string_view why) {
    return fail(ErrorCode::corrupt, "{}: file name {} {}; expected the name of a file in the same folder", where,
                in_quotes(name), why);
  };
  if (name.empty()) return refuse("is empty");
  if (name == "." || name == "..") return refuse("is a folder");
  if (name.size() > 255) return refuse("is longer than 255 bytes");
  if (name.find_first_of("/\\") != std::string_view::npos) return refuse("has a path separator");
  if (has_control_characters(name)) return refuse("has control characters");
  return {};
}

}  // namespace nibble
