#include <charconv>
#include <iterator>

#include "core/checked.h"
#include "format/number_format.h"

namespace nibble {
namespace {

// Minifloats whose codes are all numbers, as arXiv 2310.05079 and OCP MX (FP6, FP4) have them, and OCP FP8, which
// reserves some.
constexpr Minifloat kE4M3{4, 3, 7}, kE3M2{3, 2, 3}, kE2M3{2, 3, 1}, kE2M1{2, 1, 1};
constexpr Minifloat kE5M2Ocp{5, 2, 15, true, 4}, kE4M3Ocp{4, 3, 7, true, 1}, kDenormalised{4, 3, 7, false};

constexpr LevelsRow power_of_two(std::string_view name, Levels levels, int bits, std::string_view what,
                                 Minifloat element, int64_t block, ScaleRule rule) {
  return {name, levels, bits, what, element, ScaleCodec::power, block, false, rule};
}
constexpr LevelsRow bfp(std::string_view name, int bits) {
  return power_of_two(name, Levels::magnitude, bits, "block floating point", {}, 16, ScaleRule::floor);
}
constexpr LevelsRow logarithm(std::string_view name, int bits) {
  return power_of_two(name, Levels::power, bits, "block logarithm", {}, 16, ScaleRule::nearest);
}
constexpr LevelsRow minifloat(std::string_view name, int bits, Minifloat element, std::string_view what = "minifloat") {
  return {name, Levels::minifloat, bits, what, element};
}
constexpr LevelsRow block_minifloat(std::string_view name, int bits, Minifloat element) {
  return power_of_two(name, Levels::minifloat, bits, "block minifloat", element, 16, ScaleRule::floor);
}
constexpr LevelsRow mx(std::string_view name, int bits, Minifloat element) {
  return power_of_two(name, Levels::minifloat, bits, "OCP microscaling", element, 32, ScaleRule::even);
}
constexpr LevelsRow fixed(std::string_view name, int bits) {
  return {name, Levels::integer, bits, "fixed point", {}, ScaleCodec::power};
}

constexpr LevelsRow kLevels[] = {
    {"f32", Levels::f32, 32, "IEEE single"},
    {"f16", Levels::f16, 16, "IEEE half"},
    {"bf16", Levels::bf16, 16, "bfloat16"},
    {"int2", Levels::integer, 2, "integer"},
    {"int3", Levels::integer, 3, "integer"},
    {"int4", Levels::integer, 4, "integer"},
    {"int5", Levels::integer, 5, "integer"},
    {"int6", Levels::integer, 6, "integer"},
    {"int7", Levels::integer, 7, "integer"},
    {"int8", Levels::integer, 8, "integer"},
    {"int", Levels::integer, 0, "integer"},
    fixed("fixed4", 4),
    fixed("fixed6", 6),
    fixed("fixed8", 8),
    minifloat("e4m3", 8, kE4M3),
    minifloat("e3m2", 6, kE3M2),
    minifloat("e2m3", 6, kE2M3),
    minifloat("e2m1", 4, kE2M1),
    minifloat("fp8e4m3", 8, kE4M3Ocp, "OCP FP8"),
    minifloat("fp8e5m2", 8, kE5M2Ocp, "OCP FP8"),
    minifloat("dmf8", 8, kDenormalised, "denormalised minifloat"),
    bfp("bfp2", 2),
    bfp("bfp3", 3),
    bfp("bfp4", 4),
    bfp("bfp5", 5),
    bfp("bfp6", 6),
    bfp("bfp7", 7),
    bfp("bfp8", 8),
    block_minifloat("bm8", 8, kE4M3),
    block_minifloat("bm6", 6, kE3M2),
    block_minifloat("bm6e2", 6, kE2M3),
    block_minifloat("bm4", 4, kE2M1),
    logarithm("bl4", 4),
    logarithm("bl6", 6),
    logarithm("bl8", 8),
    mx("mxfp8", 8, kE4M3Ocp),
    mx("mxfp8e5m2", 8, kE5M2Ocp),
    mx("mxfp6", 6, kE2M3),
    mx("mxfp6e3m2", 6, kE3M2),
    mx("mxfp4", 4, kE2M1),
    power_of_two("mxint8", Levels::integer, 8, "OCP microscaling", {}, 32, ScaleRule::floor),
    {"nvfp4", Levels::minifloat, 4, "NVFP4", kE2M1, ScaleCodec::e4m3, 16, true, ScaleRule::fit},
    {"code1", Levels::table, 1, "learned levels"},
    {"code2", Levels::table, 2, "learned levels"},
    {"code3", Levels::table, 3, "learned levels"},
    {"code4", Levels::table, 4, "learned levels"},
    {"code", Levels::table, 0, "learned levels"},
};

struct RuleName {
  std::string_view name;
  ScaleRule rule;
};
constexpr RuleName kRules[] = {
    {"fit", ScaleRule::fit},     {"floor", ScaleRule::floor},   {"ceil", ScaleRule::ceil},
    {"up", ScaleRule::up},       {"even", ScaleRule::even},     {"nearest", ScaleRule::nearest},
    {"paper", ScaleRule::paper}, {"search", ScaleRule::search}, {"4over6", ScaleRule::four_six},
};

constexpr std::string_view kGrammar = "LEVELS[:tensor|row|col|token|gN|bN][:asym][:fN][:RULE]";
constexpr int kMostFraction = 126;
constexpr int64_t kOpenGroup = 128;  // columns of one width, where the text says nothing else

tl::unexpected<Error> unknown(std::string_view text, std::string_view problem) {
  std::string names;
  for (const LevelsRow& row : kLevels) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return fail(ErrorCode::usage, "number format \"{}\": {}; expected {} with LEVELS one of {}", text, problem, kGrammar,
              names);
}

std::string_view next_piece(std::string_view& rest) {
  size_t colon = rest.find(':');
  std::string_view piece = rest.substr(0, colon);
  rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
  return piece;
}

bool parse_number(std::string_view digits, int64_t& out) {
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
  return !digits.empty() && error == std::errc() && end == digits.data() + digits.size();
}

bool powers(const LevelsRow& row) { return row.scale != ScaleCodec::none; }

bool parse_sharing(std::string_view piece, const LevelsRow& row, NumberFormat& format) {
  const bool learned = row.levels == Levels::table;
  if (piece == "col" && learned) return format.sharing = Sharing::column, true;
  if (row.bits == 0 && (learned || piece.empty() || piece[0] != 'g')) return false;
  if (piece == "row") return format.sharing = Sharing::row, true;
  if (piece == "tensor" && !powers(row) && !learned) return format.sharing = Sharing::tensor, true;
  if (piece == "token" && !learned) return format.sharing = Sharing::token, true;
  if (piece.size() < 2 || piece[0] != (powers(row) ? 'b' : 'g')) return false;
  format.sharing = Sharing::group;
  return parse_number(piece.substr(1), format.group) && format.group >= 1 && format.group <= (1 << 20);
}

bool parse_fraction(std::string_view piece, NumberFormat& format) {
  int64_t fraction = 0;
  if (piece.size() < 2 || piece[0] != 'f' || !parse_number(piece.substr(1), fraction)) return false;
  if (fraction < -kMostFraction || fraction > kMostFraction) return false;
  format.sharing = Sharing::none;
  format.scale = ScaleCodec::none;
  format.fraction = static_cast<int>(fraction);
  return true;
}

// Whether an encoder of this format can go by that rule.
bool allows(const NumberFormat& format, ScaleRule rule) {
  const bool sized = format.scale == ScaleCodec::power && format.sharing != Sharing::none;
  switch (rule) {
    case ScaleRule::fit: return !sized;
    case ScaleRule::four_six: return format.outer;
    case ScaleRule::search: return sized || format.outer;
    case ScaleRule::paper:
      return (sized && format.levels == Levels::magnitude) || (format.levels == Levels::minifloat && !format.outer);
    default: return sized;
  }
}

bool parse_rule(std::string_view piece, NumberFormat& format) {
  if (!format.is_block()) return false;
  for (const RuleName& row : kRules)
    if (row.name == piece && allows(format, row.rule)) return format.rule = row.rule, true;
  return false;
}

// Format with nothing but the name said.
NumberFormat plain(const LevelsRow& row) {
  NumberFormat format;
  format.levels = row.levels;
  format.bits = row.bits;
  format.scale = row.scale;
  format.outer = row.outer;
  format.rule = row.rule;
  format.group = row.block;
  if (row.block > 0) {
    format.sharing = Sharing::group;
  } else if (row.levels == Levels::integer && row.bits == 0) {
    format.sharing = Sharing::group;
    format.group = kOpenGroup;
    format.scale = ScaleCodec::f16;
  } else if (powers(row)) {
    format.sharing = Sharing::tensor;
  } else if (row.levels == Levels::integer) {
    format.sharing = Sharing::row;
    format.scale = ScaleCodec::f32;
  } else if (row.levels == Levels::table) {
    format.sharing = row.bits == 0 ? Sharing::column : Sharing::row;
  }
  if (format.is_block()) format.row = static_cast<uint8_t>(&row - kLevels);
  return format;
}

const LevelsRow* find_row(std::string_view name) {
  for (const LevelsRow& row : kLevels)
    if (row.name == name) return &row;
  return nullptr;
}

// Fixed point and plain minifloats have no block: a tensor's fraction, if anything.
bool shares_blocks(const LevelsRow& row) {
  return row.block > 0 || row.levels == Levels::table || (row.levels == Levels::integer && !powers(row));
}

const LevelsRow& row_of(const NumberFormat& format) {
  const LevelsRow* row = kLevels + format.row;
  if (!format.is_block())
    while (row->levels != format.levels || row->bits != format.bits) ++row;
  return *row;
}

}  // namespace

const LevelsRow* begin_levels() { return std::begin(kLevels); }
const LevelsRow* end_levels() { return std::end(kLevels); }

int64_t NumberFormat::groups(int64_t k) const {
  return sharing == Sharing::group ? ceil_div(k, group) : sharing == Sharing::column ? k : 1;
}

int64_t NumberFormat::table_levels(int64_t n, int64_t k) const {
  if (!is_learned()) return 0;
  return levels_count() * (sharing == Sharing::column ? k : n * groups(k));
}

bool serves_weights(const NumberFormat& format) {
  if (format.is_float()) return true;
  return format.sharing == Sharing::row || format.sharing == Sharing::group || format.sharing == Sharing::column ||
         (format.sharing == Sharing::none && format.is_block());
}

bool serves_activations(const NumberFormat& format) {
  if (format.is_float()) return format.levels != Levels::f16;
  if (format.is_learned()) return false;
  if (format.is_integer()) return format.sharing == Sharing::token || format.sharing == Sharing::row;
  const bool cuts = format.rule == ScaleRule::paper && format.levels == Levels::minifloat;
  return format.sharing != Sharing::tensor && format.rule != ScaleRule::search && format.rule != ScaleRule::four_six &&
         !cuts;
}

bool can_multiply(const NumberFormat& weights, const NumberFormat& activations) {
  if (activations.levels == Levels::f32) return true;
  if (activations.is_float()) return activations.levels == Levels::bf16 && weights.is_exact_in_bf16();
  if (activations.is_integer()) return weights.is_integer() || weights.is_learned();
  return weights.is_block() || weights.is_learned();
}

Result<NumberFormat> parse_format(std::string_view text) {
  std::string_view rest = text;
  std::string_view name = next_piece(rest);
  const LevelsRow* row = find_row(name);
  if (row == nullptr) return unknown(text, fmt::format("\"{}\" are no known levels", name));
  NumberFormat format = plain(*row);
  if (format.is_float() && name.size() != text.size()) return unknown(text, "plain floats have no scale");
  if (text.ends_with(':')) return unknown(text, "it ends in a colon");
  bool shared = false, fraction = false, rule = false;
  while (!rest.empty()) {
    const std::string_view piece = next_piece(rest);
    if (piece == "asym" && format.is_integer() && !format.offset) {
      format.offset = true;
    } else if (!shared && !format.offset && !fraction && !rule && shares_blocks(*row) &&
               parse_sharing(piece, *row, format)) {
      shared = true;
      if (format.sharing != Sharing::group) format.group = 0;
    } else if (!fraction && !rule && format.is_block() && !shares_blocks(*row) && parse_fraction(piece, format)) {
      fraction = true;
    } else if (!rule && parse_rule(piece, format)) {
      rule = true;
    } else {
      return unknown(text, fmt::format("\"{}\" is not understood", piece));
    }
  }
  if (format.is_integer() && format.sharing == Sharing::group) format.scale = ScaleCodec::f16;
  return format;
}

std::string to_string(const NumberFormat& format) {
  const LevelsRow& row = row_of(format);
  std::string out(row.name);
  const bool says_fraction =
      format.is_block() && format.sharing == Sharing::none && (powers(row) || format.fraction != 0);
  switch (format.sharing) {
    case Sharing::none: break;
    case Sharing::tensor: out += shares_blocks(row) ? ":tensor" : ""; break;
    case Sharing::row: out += ":row"; break;
    case Sharing::column: out += ":col"; break;
    case Sharing::token: out += ":token"; break;
    case Sharing::group: out += fmt::format(":{}{}", powers(row) ? 'b' : 'g', format.group); break;
  }
  if (says_fraction) out += fmt::format(":f{}", format.fraction);
  if (format.offset) out += ":asym";
  if (format.is_block() && format.rule != row.rule)
    for (const RuleName& known : kRules)
      if (known.rule == format.rule) out += fmt::format(":{}", known.name);
  return out;
}

}  // namespace nibble
