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
  if (serves_weights(format) || format.is_profiled()) return format;
  return fail(ErrorCode::usage, "{}: \"weights\" is \"{}\"; weights share scales by row, col, gN or bN", where, text);
}

Result<NumberFormat> parse_activations(std::string_view text, std::string_view where) {
  NIBBLE_TRY(const NumberFormat format, parse(text, "activations", where));
  const bool integer_per_row = format.is_integer() && format.sharing != Sharing::token;
  if ((serves_activations(format) && !integer_per_row) || format.is_profiled()) return format;
  return fail(
      ErrorCode::usage,
      "{}: \"activations\" is \"{}\"; activations are f32, bf16, intN:token[:asym] or a block format whose scale needs "
      "no search",
      where, text);
}

}  // namespace nibble
