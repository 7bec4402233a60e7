#include "core/markup.h"

#include "core/json.h"

namespace nibble {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

std::string_view reference_of(char c) {
  switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return {};
  }
}

bool is_control(char c) {
  const auto code = static_cast<unsigned char>(c);
  return (code < 0x20 && c != '\n' && c != '\t') || code == 0x7F;
}

// The JSON writer replaces what is not UTF-8; the parser gives the repaired text back.
std::string repaired(std::string_view text) {
  const auto parsed = parse_json(dump_json(Json(std::string(text))), "a text of a document");
  return parsed ? parsed->get<std::string>() : std::string();
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : repaired(text)) {
    const std::string_view reference = reference_of(c);
    if (!reference.empty()) {
      out += reference;
    } else if (is_control(c)) {
      out += kReplacement;
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace nibble
