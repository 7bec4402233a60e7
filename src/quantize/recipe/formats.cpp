#include "quantize/recipe/formats.h"

namespace nibble {
namespace {

Result<NumberFormat> parse(std::string_view text, std::string_view what, std::string_view where) {
  auto format = parse_format(text);
  if (!format) return fail(ErrorCode::usage, "{}: \"{}\": {}", where, what, format.error().message);
  return format;
}

}  // namespace

Result<NumberFormat> parse_weights(std::string_view text, std::string_view where) {
  NIBBLE_TRY(const NumberFormat format, parse(text, "weights", where));
  if (!format.is_integer() || format.sharing == Sharing::row || format.sharing == Sharing::group) return format;
  return fail(ErrorCode::usage, "{}: \"weights\" is \"{}\"; weights share scales by row or gN", where, text);
}

Result<NumberFormat> parse_activations(std::string_view text, std::string_view where) {
  NIBBLE_TRY(const NumberFormat format, parse(text, "activations", where));
  const bool plain = format.levels == Levels::f32;
  if (plain || (format.is_integer() && format.sharing == Sharing::token)) return format;
  return fail(ErrorCode::usage, "{}: \"activations\" is \"{}\"; activations are f32 or intN:token[:asym]", where, text);
}

}  // namespace nibble
