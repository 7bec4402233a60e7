#include <charconv>
#include <iterator>

#include "core/checked.h"
#include "format/number_format.h"

namespace nibble {
namespace {

constexpr LevelsRow kLevels[] = {
    {"int2", Levels::integer, 2}, {"int3", Levels::integer, 3}, {"int4", Levels::integer, 4},
    {"int5", Levels::integer, 5}, {"int6", Levels::integer, 6}, {"int7", Levels::integer, 7},
    {"int8", Levels::integer, 8}, {"f16", Levels::f16, 16},     {"bf16", Levels::bf16, 16},
    {"f32", Levels::f32, 32},
};

tl::unexpected<Error> unknown(std::string_view text, std::string_view problem) {
  std::string names;
  for (const LevelsRow& row : kLevels) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return fail(ErrorCode::usage,
              "number format \"{}\": {}; expected LEVELS[:tensor|row|token|gN][:asym] with LEVELS one of {}", text,
              problem, names);
}

std::string_view next_piece(std::string_view& rest) {
  size_t colon = rest.find(':');
  std::string_view piece = rest.substr(0, colon);
  rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
  return piece;
}

bool parse_sharing(std::string_view piece, NumberFormat& format) {
  if (piece == "tensor") return format.sharing = Sharing::tensor, true;
  if (piece == "row") return format.sharing = Sharing::row, true;
  if (piece == "token") return format.sharing = Sharing::token, true;
  if (piece.size() < 2 || piece[0] != 'g') return false;
  auto [end, error] = std::from_chars(piece.data() + 1, piece.data() + piece.size(), format.group);
  format.sharing = Sharing::group;
  return error == std::errc() && end == piece.data() + piece.size() && format.group >= 1 && format.group <= (1 << 20);
}

}  // namespace

const LevelsRow* begin_levels() { return std::begin(kLevels); }
const LevelsRow* end_levels() { return std::end(kLevels); }

int64_t NumberFormat::groups(int64_t k) const { return sharing == Sharing::group ? ceil_div(k, group) : 1; }

Result<NumberFormat> parse_format(std::string_view text) {
  std::string_view rest = text;
  std::string_view name = next_piece(rest);
  NumberFormat format;
  const LevelsRow* row = begin_levels();
  while (row != end_levels() && row->name != name) ++row;
  if (row == end_levels()) return unknown(text, fmt::format("\"{}\" are no known levels", name));
  format.levels = row->levels;
  format.bits = row->bits;
  if (!format.is_integer()) {
    if (name.size() != text.size()) return unknown(text, "plain floats have no scale");
    return format;
  }
  format.sharing = Sharing::row;
  for (bool first = true; !rest.empty(); first = false) {
    std::string_view piece = next_piece(rest);
    if (piece == "asym" && !format.offset) {
      format.offset = true;
    } else if (!first || !parse_sharing(piece, format)) {
      return unknown(text, fmt::format("\"{}\" is not understood", piece));
    }
  }
  if (text.ends_with(':')) return unknown(text, "it ends in a colon");
  format.scale = format.sharing == Sharing::group ? ScaleCodec::f16 : ScaleCodec::f32;
  return format;
}

std::string to_string(const NumberFormat& format) {
  std::string out;
  for (const LevelsRow& row : kLevels)
    if (row.levels == format.levels && row.bits == format.bits) out = row.name;
  switch (format.sharing) {
    case Sharing::none: break;
    case Sharing::tensor: out += ":tensor"; break;
    case Sharing::row: out += ":row"; break;
    case Sharing::token: out += ":token"; break;
    case Sharing::group: out += fmt::format(":g{}", format.group); break;
  }
  return format.offset ? out + ":asym" : out;
}

}  // namespace nibble
