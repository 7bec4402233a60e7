#include "format/attention_formats.h"

#include <algorithm>
#include <cmath>

#include "core/checked.h"
#include "format/block_scale.h"

namespace nibble {
namespace {

// Beyond it a scale times a level might not be a float.
constexpr int kMostFraction = 100;

bool stored(std::string_view operand) { return operand == "k" || operand == "v"; }
bool along_positions(std::string_view operand) { return operand == "p" || operand == "v"; }

bool represents_one(const NumberFormat& format) {
  const float one = 1;
  float rounded = 0;
  round_probabilities({&one, 1}, format, {&rounded, 1});
  return rounded == 1;
}

// Why a coded format cannot be this operand's; empty when it can. `planned`: fractions may be found later.
std::string objection(const NumberFormat& format, std::string_view operand, bool planned) {
  if (format.is_learned()) return "learned levels are for weights";
  if (format.is_integer())
    return "integers under a float scale are for linear layers; mxint8 and fixedN:fN are their kin here";
  if (format.is_profiled()) {
    if (planned) return "";
    return fmt::format("its fraction would be found while quantizing; say it, as in {}:f4", to_string(format));
  }
  if (!serves_activations(format)) return "its scale needs a search";
  if (std::abs(format.fraction) > kMostFraction) return fmt::format("its fraction is beyond {}", kMostFraction);
  if (!along_positions(operand)) return "";
  const bool in_blocks = format.sharing != Sharing::none;
  if (in_blocks && (format.sharing != Sharing::group || kMostPositionBlock % format.group != 0))
    return fmt::format("blocks run along positions, and their size must divide a page of {}", kMostPositionBlock);
  if (operand == "p" && !represents_one(format))
    return "it cannot represent 1, which every row of probabilities contains (fixed8:f6 can, fixed8:f7 cannot)";
  return "";
}

// `shared`: numbers that share an outer scale.
double bits_of(const NumberFormat& format, int64_t count, int64_t shared) {
  if (format.is_float()) return format.bits;
  const double code = cached_code_bits(format);
  if (format.sharing == Sharing::none) return code;
  const int64_t block = format.sharing == Sharing::group ? std::min(format.group, count) : count;
  const double scales = 8.0 * static_cast<double>(ceil_div(count, block)) / static_cast<double>(count);
  return code + scales + (format.outer ? 8.0 / static_cast<double>(shared) : 0);
}

Result<NumberFormat> parse_operand(std::string_view operand, std::string_view text, std::string_view where,
                                   bool planned) {
  auto format = parse_format(text);
  if (!format) return fail(ErrorCode::usage, "{}: \"{}\": {}", where, operand, format.error().message);
  if (format->is_float()) {
    if (format->levels == Levels::f32 || stored(operand)) return format;
    return fail(ErrorCode::usage, "{}: \"{}\" is \"{}\"; expected f32 or a block format", where, operand, text);
  }
  if (operand == "p" && format->is_profiled()) format = with_fraction(*format, 1);
  if (const std::string problem = objection(*format, operand, planned); !problem.empty())
    return fail(ErrorCode::usage, "{}: \"{}\" cannot be \"{}\": {}", where, operand, text, problem);
  return format;
}

}  // namespace

AttentionFormats AttentionFormats::without_float_types() const {
  AttentionFormats out = *this;
  if (out.k.is_float()) out.k = NumberFormat();
  if (out.v.is_float()) out.v = NumberFormat();
  return out;
}

const NumberFormat& operand_of(const AttentionFormats& formats, std::string_view name) {
  return name == "q" ? formats.q : name == "k" ? formats.k : name == "p" ? formats.p : formats.v;
}

NumberFormat& operand_of(AttentionFormats& formats, std::string_view name) {
  return const_cast<NumberFormat&>(operand_of(std::as_const(formats), name));
}

Result<NumberFormat> parse_attention_format(std::string_view operand, std::string_view text, std::string_view where) {
  return parse_operand(operand, text, where, false);
}

Result<NumberFormat> parse_planned_attention_format(std::string_view operand, std::string_view text,
                                                    std::string_view where) {
  return parse_operand(operand, text, where, true);
}

bool has_open_fractions(const AttentionFormats& formats) {
  return formats.q.is_profiled() || formats.k.is_profiled() || formats.v.is_profiled();
}

AttentionFormats with_fractions(AttentionFormats formats, const AttentionMagnitudes& most) {
  const auto close = [](NumberFormat& format, float magnitude) {
    if (!format.is_profiled()) return;
    format = with_fraction(format, magnitude);
    format.fraction = std::clamp(format.fraction, -kMostFraction, kMostFraction);
  };
  close(formats.q, most.q);
  close(formats.k, most.k);
  close(formats.v, most.v);
  return formats;
}

bool fulfils(const AttentionFormats& stored, const AttentionFormats& planned) {
  return std::all_of(std::begin(kAttentionOperands), std::end(kAttentionOperands), [&](std::string_view name) {
    return fulfils(operand_of(stored, name), operand_of(planned, name));
  });
}

Result<AttentionFormats> with_cache(AttentionFormats formats, std::string_view text, std::string_view where) {
  const size_t slash = text.find('/');
  NIBBLE_TRY(formats.k, parse_attention_format("k", text.substr(0, slash), where));
  NIBBLE_TRY(formats.v, parse_attention_format("v", slash == text.npos ? text : text.substr(slash + 1), where));
  return formats;
}

std::string cache_name(const AttentionFormats& formats) {
  const std::string keys = to_string(formats.k);
  return formats.k == formats.v ? keys : keys + "/" + to_string(formats.v);
}

std::string summary_of(std::span<const AttentionFormats> blocks) {
  std::string out;
  for (size_t begin = 0, end = 0; begin < blocks.size(); begin = end) {
    while (end < blocks.size() && blocks[end] == blocks[begin]) ++end;
    if (begin > 0 || end < blocks.size()) out += fmt::format("{}blocks {}-{}: ", begin > 0 ? "; " : "", begin, end - 1);
    for (const std::string_view name : kAttentionOperands)
      out += fmt::format("{}{} {}", name == "q" ? "" : ", ", name, to_string(operand_of(blocks[begin], name)));
  }
  return out;
}

Json to_json(const AttentionFormats& formats) {
  Json out = Json::object();
  for (const std::string_view name : kAttentionOperands) out[std::string(name)] = to_string(operand_of(formats, name));
  return out;
}

Result<AttentionFormats> attention_from_json(const Json& source, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(source, where));
  AttentionFormats formats;
  for (const std::string_view name : kAttentionOperands) {
    NIBBLE_TRY(const std::string text, reader.string(name));
    NIBBLE_TRY(operand_of(formats, name), parse_attention_format(name, text, where));
  }
  NIBBLE_DO(reader.refuse_unknown());
  return formats;
}

int cached_code_bits(const NumberFormat& format) { return format.bits <= 4 ? 4 : format.bits <= 6 ? format.bits : 8; }

double key_bits(const NumberFormat& format, int64_t head_dim) { return bits_of(format, head_dim, head_dim); }

double value_bits(const NumberFormat& format, int64_t head_dim) {
  return bits_of(format, kMostPositionBlock, format.group * head_dim);
}

double cache_bits(const AttentionFormats& formats, int64_t head_dim) {
  return (key_bits(formats.k, head_dim) + value_bits(formats.v, head_dim)) / 2;
}

double cache_bits(std::span<const AttentionFormats> blocks, int64_t head_dim) {
  double sum = 0;
  for (const AttentionFormats& block : blocks) sum += cache_bits(block, head_dim);
  return sum / static_cast<double>(blocks.size());
}

}  // namespace nibble
