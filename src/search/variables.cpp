#include "search/variables.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "format/attention_formats.h"
#include "format/linear_weight.h"
#include "model/model.h"
#include "quantize/recipe/formats.h"

namespace nibble::search {
namespace {

constexpr PaletteRow kPalettes[] = {
    {"bfp", "block floating point of 2 to 8 bits, blocks of 16 (arXiv:2310.05079)",
     "bfp2:b16,bfp3:b16,bfp4:b16,bfp5:b16,bfp6:b16,bfp7:b16,bfp8:b16",
     "bfp2:b16,bfp3:b16,bfp4:b16,bfp5:b16,bfp6:b16,bfp7:b16,bfp8:b16",
     "bfp2:b16,bfp3:b16,bfp4:b16,bfp5:b16,bfp6:b16,bfp7:b16,bfp8:b16"},
    {"mx", "OCP microscaling: 4, 6 and 8 bits", "mxfp4,mxfp6,mxint8", "mxfp4,mxfp6,mxint8", "mxfp4,mxfp6,mxint8"},
    {"int", "integers of 2 to 8 bits, groups of 32; activations of 4 to 8 bits by token",
     "int2:g32,int3:g32,int4:g32,int5:g32,int6:g32,int7:g32,int8:g32",
     "int4:token:asym,int5:token:asym,int6:token:asym,int7:token:asym,int8:token:asym", ""},
    {"int-weights", "integers of 2 to 8 bits, groups of 32; float activations",
     "int2:g32,int3:g32,int4:g32,int5:g32,int6:g32,int7:g32,int8:g32", "f32", ""},
    {"int-g128", "integers of 2 to 8 bits with offsets, groups of 128; float activations",
     "int2:g128:asym,int3:g128:asym,int4:g128:asym,int5:g128:asym,int6:g128:asym,int8:g128:asym", "f32", ""},
    {"int-groups", "the same, those of up to 4 bits in groups of 64 and 32, too",
     "int2:g128:asym,int2:g64:asym,int2:g32:asym,int3:g128:asym,int3:g64:asym,int3:g32:asym,int4:g128:asym,"
     "int4:g64:asym,int4:g32:asym,int5:g128:asym,int6:g128:asym,int8:g128:asym",
     "f32", ""},
    {"channels", "bits of their own for every input channel, 2 to 6 stored ones on average: nibble quantize alone",
     "code:col@2,code:col@2.5,code:col@3,code:col@3.5,code:col@4,code:col@5,code:col@6", "bf16", ""},
};

constexpr int64_t kScaleBits = 32, kOffsetBits = 8;  // of a token's
constexpr int64_t kOuterBits = 32;                   // of a matrix's outer scale

template <class Parse>
Result<std::vector<NumberFormat>> read_formats(std::string_view list, std::string_view where, const Parse& parse) {
  std::vector<NumberFormat> out;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    NIBBLE_TRY(const NumberFormat format, parse(list.substr(begin, end - begin), where));
    if (std::find(out.begin(), out.end(), format) != out.end())
      return fail(ErrorCode::usage, "{}: {} is named twice", where, to_string(format));
    out.push_back(format);
    begin = end + 1;
  }
  return out;
}

// FORMAT, or FORMAT@AVERAGE where it leaves a column's bits open.
Status read_weights(std::string_view list, std::string_view where, Palette& out) {
  std::string formats;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const std::string entry(list.substr(begin, end - begin));
    const size_t at = std::min(entry.find('@'), entry.size());
    NIBBLE_TRY(const NumberFormat format, parse_weights(entry.substr(0, at), where));
    double average = 0;
    if (at < entry.size()) {
      char* rest = nullptr;
      average = std::strtod(entry.c_str() + at + 1, &rest);
      if (rest != entry.c_str() + entry.size() || !(average >= 1 && average <= 16))
        return fail(ErrorCode::usage, "{}: \"{}\": expected an average of 1 to 16 stored bits a weight behind @", where,
                    entry);
      if (format.bits != 0)
        return fail(ErrorCode::usage, "{}: \"{}\": only code:col has an average, {} has {} bits everywhere", where,
                    entry, to_string(format), format.bits);
      if (format != open_columns())
        return fail(ErrorCode::usage,
                    "{}: \"{}\": only code:col has an average; --recipe slim-llm --bits X, without a fit, gives "
                    "bits to groups",
                    where, entry);
    }
    for (size_t k = 0; k < out.weights.size(); ++k)
      if (out.weights[k] == format && out.averages[k] == average)
        return fail(ErrorCode::usage, "{}: {} is named twice", where, name_of(format, average));
    out.weights.push_back(format);
    out.averages.push_back(average);
    begin = end + 1;
  }
  if (!out.gives_averages()) out.averages.clear();
  return {};
}

// A format that serves all four operands of attention.
Result<NumberFormat> parse_for_all_operands(std::string_view text, std::string_view where) {
  NumberFormat out;
  for (std::string_view operand : kAttentionOperands) {
    NIBBLE_TRY(out, parse_attention_format(operand, text, where));
  }
  return out;
}

Result<const PaletteRow*> palette_named(std::string_view name) {
  static constexpr PaletteRow kNone{"", "", "", "", ""};
  if (name.empty()) return &kNone;
  std::string names;
  for (const PaletteRow& row : kPalettes) {
    if (row.name == name) return &row;
    if (!row.gives_averages()) names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  return fail(ErrorCode::usage, "unknown palette \"{}\"; there are {}; or give --formats", name, names);
}

// --- costs ------------------------------------------------------------------------------------------------------

// Of one linear, or of all linears of a site together.
Variable weights_of(const Spec& spec, const Palette& palette, int64_t block, const std::vector<Role>& roles,
                    std::string name, const WeightCosts& costs) {
  Variable out;
  out.name = std::move(name);
  out.block = block;
  out.roles = roles;
  out.bits.assign(palette.weights.size(), 0);
  if (costs) out.charged.assign(palette.weights.size(), 0);
  if (palette.gives_averages()) out.averages.assign(palette.weights.size(), 0);
  for (Role role : roles) {
    const Shape shape = shape_of(spec, role);
    out.values += shape.rows * shape.columns;
    for (size_t k = 0; k < palette.weights.size(); ++k) {
      if (!costs) {
        out.bits[k] += stored_bits(palette.weights[k], shape.rows, shape.columns);
        continue;
      }
      const WeightCost cost = costs(block, role, k);
      out.bits[k] += cost.stored;
      out.charged[k] += cost.charged;
      if (cost.average > 0) out.averages[k] = cost.average;
    }
  }
  return out;
}

Variable activations_of(const Spec& spec, const Palette& palette, int64_t block, const Site& site) {
  const int64_t inputs = shape_of(spec, site.roles[0]).columns, readers = static_cast<int64_t>(site.roles.size());
  Variable out;
  out.name = fmt::format("blocks.{}.{}.activations", block, site.name);
  out.operand = Operand::activations;
  out.block = block;
  out.roles = site.roles;
  out.values = readers * inputs;
  for (const NumberFormat& format : palette.activations) out.bits.push_back(readers * input_bits(format, inputs));
  return out;
}

// Of one token, with `length` in the sequence. Queries, keys: rows of head_dim. A value shares its scales with those of
// other tokens, so its bits are a mean; so are those of the probabilities of all positions before a token and its own.
Variable attention_of(const Spec& spec, const Palette& palette, int64_t block, std::string_view operand,
                      const Budget& budget) {
  Variable out;
  out.name = fmt::format("blocks.{}.attention.{}", block, operand);
  out.operand = Operand::attention;
  out.block = block;
  out.attention = operand;
  out.cached = operand == "k" || operand == "v";
  const int64_t row = operand == "p" ? (budget.length + 1) / 2 : operand == "v" ? budget.length : spec.head_dim;
  const int64_t heads = out.cached ? spec.kv_heads : spec.heads;
  out.values = heads * (operand == "p" ? row : spec.head_dim);
  const auto bits_of_value = [&](const NumberFormat& format) {
    if (budget.memory && operand == "k") return key_bits(format, spec.head_dim);
    if (budget.memory && operand == "v") return value_bits(format, spec.head_dim);
    int64_t bits = input_bits(format, row);
    if (format.outer) bits -= kOuterBits - (operand == "p" ? 0 : 8);  // a power of two here; a constant for p
    return static_cast<double>(bits) / static_cast<double>(row);
  };
  for (const NumberFormat& format : palette.attention)
    out.bits.push_back(std::llround(bits_of_value(format) * static_cast<double>(out.values)));
  return out;
}

std::vector<Variable> variables_of(const Spec& spec, const Palette& palette, const Budget& budget,
                                   const WeightCosts& costs) {
  std::vector<Variable> out;
  for (int64_t block = 0; block < spec.layers; ++block) {
    for (const Site& site : sites_of(spec)) {
      out.push_back(activations_of(spec, palette, block, site));
      if (palette.gives_averages()) {
        out.push_back(
            weights_of(spec, palette, block, site.roles, fmt::format("blocks.{}.{}.weights", block, site.name), costs));
        continue;
      }
      for (Role role : site.roles)
        out.push_back(weights_of(spec, palette, block, {role}, linear_name(block, role) + ".weights", costs));
    }
    if (palette.attention.empty()) continue;
    for (std::string_view operand : kAttentionOperands)
      out.push_back(attention_of(spec, palette, block, operand, budget));
  }
  return out;
}

// --- pools ------------------------------------------------------------------------------------------------------

Status check(const Budget& budget, bool attention) {
  if (!budget.bits && !budget.memory) return fail(ErrorCode::usage, "there is no budget: give --bits or --memory");
  if (budget.bits && budget.memory)
    return fail(ErrorCode::usage, "two budgets are given: --bits and --memory exclude each other");
  for (const auto& [name, bits] : {std::pair("--bits", budget.bits), {"--activation-bits", budget.activation_bits}})
    if (bits && !(*bits > 0 && *bits <= 64))
      return fail(ErrorCode::usage, "{} is {}; expected more than 0, and 64 at most", name, *bits);
  if (budget.memory && *budget.memory < 1) return fail(ErrorCode::usage, "--memory is {} bytes", *budget.memory);
  if ((budget.all || attention) && budget.length < 1)
    return fail(ErrorCode::usage, "--length is {}; expected the number of tokens that the budget counts",
                budget.length);
  if (budget.all && budget.bits && budget.activation_bits)
    return fail(ErrorCode::usage, "--budget all counts the activations already: it excludes --activation-bits");
  return {};
}

int64_t values_of(const Space& space, const Pool& pool) {
  int64_t sum = pool.fixed_values;
  for (size_t i : pool.variables) {
    const Variable& variable = space.variables[i];
    sum += variable.values * (variable.operand == Operand::weights ? 1 : pool.tokens);
  }
  return sum;
}

// The cheapest choice must fit. `per_value`: how the budget was given.
Status check_possible(const Space& space, const Pool& pool, bool per_value, std::string_view option) {
  int64_t least = pool.fixed_bits;
  for (size_t i : pool.variables) {
    int64_t cheapest = space.cost(pool, i, 0);
    for (size_t k = 1; k < space.candidates(space.variables[i]).size(); ++k)
      cheapest = std::min(cheapest, space.cost(pool, i, static_cast<int>(k)));
    least += cheapest;
  }
  if (!pool.limit || least <= *pool.limit) return {};
  if (!per_value)
    return fail(ErrorCode::usage,
                "{} {} is impossible: the narrowest formats need {} bytes, {} of which are not chosen", option,
                *pool.limit / 8, (least + 7) / 8, pool.fixed_bits / 8);
  const auto values = static_cast<double>(values_of(space, pool));
  // Rounded up, so that the number in the message is possible.
  const double needed = std::ceil(static_cast<double>(least) / values * 1e4) * 1e-4;
  return fail(ErrorCode::usage, "{} {:.6g} is impossible: the narrowest formats need {:.4f} bits on average", option,
              static_cast<double>(*pool.limit) / values, needed);
}

int64_t cache_values(const Spec& spec, int64_t tokens) {
  return 2 * spec.layers * spec.kv_heads * spec.head_dim * tokens;
}

std::vector<size_t> all_of(const Space& space, Operand operand) {
  std::vector<size_t> out;
  for (size_t i = 0; i < space.variables.size(); ++i)
    if (space.variables[i].operand == operand) out.push_back(i);
  return out;
}

void make_pools(const Spec& spec, const Budget& budget, const Unchosen& unchosen, Space& space) {
  Pool weights, activations;
  weights.variables = all_of(space, Operand::weights);
  activations.variables = all_of(space, Operand::activations);
  for (size_t i : all_of(space, Operand::attention)) {
    const bool stored = budget.memory && budget.all && space.variables[i].cached;
    (stored ? weights : activations).variables.push_back(i);
  }
  if (budget.all) weights.tokens = budget.length;
  if (budget.all && !space.chooses_attention()) {
    weights.fixed_values = cache_values(spec, budget.length);
    weights.fixed_bits = std::llround(static_cast<double>(weights.fixed_values) * unchosen.cache_bits);
  }
  if (budget.memory) {
    weights.fixed_bits += unchosen.stored_bits;
    weights.limit = *budget.memory * 8;
  } else if (budget.all) {
    weights.variables.insert(weights.variables.end(), activations.variables.begin(), activations.variables.end());
    activations.variables.clear();
  }
  if (budget.bits) weights.limit = limit_of(*budget.bits, values_of(space, weights));
  if (budget.activation_bits) activations.limit = limit_of(*budget.activation_bits, values_of(space, activations));
  space.pools.push_back(std::move(weights));
  if (!activations.variables.empty()) space.pools.push_back(std::move(activations));
}

double average(const Space& space, const Choice& choice, bool weights) {
  double bits = 0, values = 0;
  for (size_t i = 0; i < choice.size(); ++i) {
    const Variable& variable = space.variables[i];
    if ((variable.operand == Operand::weights) != weights) continue;
    bits += static_cast<double>(variable.bits[static_cast<size_t>(choice[i])]);
    values += static_cast<double>(variable.values);
  }
  return values > 0 ? bits / values : 0;
}

}  // namespace

int64_t limit_of(double bits, int64_t values) {
  return static_cast<int64_t>(std::floor(bits * static_cast<double>(values) * (1 + 1e-12)));
}

std::span<const PaletteRow> palette_rows() { return kPalettes; }

Result<Palette> read_palette(std::string_view name, std::string_view weights, std::string_view activations,
                             std::string_view attention) {
  NIBBLE_TRY(const PaletteRow* row, palette_named(name));
  if (attention == "palette") {
    if (row->attention.empty())
      return fail(ErrorCode::usage, "--attention palette: {}; name formats instead",
                  name.empty() ? "no palette is given" : fmt::format("the palette {} has none for attention", name));
    attention = row->attention;
  }
  if (weights.empty()) weights = row->weights;
  if (activations.empty()) activations = row->activations.empty() ? "f32" : row->activations;
  if (weights.empty())
    return fail(ErrorCode::usage, "there is nothing to choose from: give --recipe with a palette's name, or --formats");
  Palette palette;
  NIBBLE_DO(read_weights(weights, "--formats", palette));
  NIBBLE_TRY(palette.activations, read_formats(activations, "--activations", parse_activations));
  if (!attention.empty()) {
    NIBBLE_TRY(palette.attention, read_formats(attention, "--attention", parse_for_all_operands));
  }
  return palette;
}

Result<Palette> read_palette_or_formats(std::string_view text, std::string_view where) {
  std::string names;
  for (const PaletteRow& row : kPalettes) {
    if (row.name == text) return read_palette(text, "", "f32");
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  Palette palette;
  if (const Status read = read_weights(text, where, palette); !read)
    return fail(read.error().code, "{}; or one of the palettes {}", read.error().message, names);
  palette.activations = {NumberFormat()};
  return palette;
}

int64_t stored_bits(const NumberFormat& format, int64_t rows, int64_t columns) {
  if (format.is_float()) return rows * columns * format.bits;
  return 8 * rows * row_sizes(format, columns, false).bytes() + 8 * format.table_bytes(rows, columns) +
         (format.outer ? kOuterBits : 0);
}

int64_t input_bits(const NumberFormat& format, int64_t columns) {
  if (format.sharing != Sharing::token) return stored_bits(format, 1, columns);
  return columns * format.bits + kScaleBits + (format.offset ? kOffsetBits : 0);
}

NumberFormat open_columns() { return *parse_format("code:col"); }

std::string name_of(const NumberFormat& format, double average) {
  return average > 0 ? fmt::format("{}@{}", to_string(format), average) : to_string(format);
}

std::string Palette::name(size_t number) const {
  return name_of(weights[number], averages.empty() ? 0 : averages[number]);
}

bool Palette::gives_averages() const {
  return std::any_of(averages.begin(), averages.end(), [](double average) { return average > 0; });
}

std::string Space::name(const Variable& variable, int candidate) const {
  const auto number = static_cast<size_t>(candidate);
  return name_of(candidates(variable)[number], variable.averages.empty() ? 0 : variable.averages[number]);
}

int64_t Space::cost(const Pool& pool, size_t variable, int candidate) const {
  const Variable& of = variables[variable];
  const std::vector<int64_t>& costs = of.charged.empty() ? of.bits : of.charged;
  return costs[static_cast<size_t>(candidate)] * (of.operand == Operand::weights ? 1 : pool.tokens);
}

int64_t Space::cost(const Pool& pool, const Choice& choice) const {
  int64_t sum = pool.fixed_bits;
  for (size_t i : pool.variables) sum += cost(pool, i, choice[i]);
  return sum;
}

bool Space::fits(const Choice& choice) const {
  return std::all_of(pools.begin(), pools.end(),
                     [&](const Pool& pool) { return !pool.limit || cost(pool, choice) <= *pool.limit; });
}

double Space::weight_bits(const Choice& choice) const { return average(*this, choice, true); }
double Space::activation_bits(const Choice& choice) const { return average(*this, choice, false); }

double Space::budget_bits(const Choice& choice) const {
  if (pools[0].tokens == 1 && pools[0].fixed_bits != 0) return weight_bits(choice);
  return static_cast<double>(cost(pools[0], choice)) / static_cast<double>(values_of(*this, pools[0]));
}

Choice Space::uniform(int weights, int activations, int operands) const {
  const int by_operand[] = {weights, activations, operands};
  Choice out;
  for (const Variable& variable : variables) out.push_back(by_operand[static_cast<size_t>(variable.operand)]);
  return out;
}

Result<Space> make_space(const Spec& spec, Palette palette, const Budget& budget, const Unchosen& unchosen,
                         const WeightCosts& costs) {
  NIBBLE_DO(check(budget, !palette.attention.empty()));
  Space space;
  space.palette = std::move(palette);
  if (!space.chooses_attention()) space.attention = unchosen.attention;
  space.variables = variables_of(spec, space.palette, budget, costs);
  make_pools(spec, budget, unchosen, space);
  NIBBLE_DO(check_possible(space, space.pools[0], budget.bits.has_value(), budget.bits ? "--bits" : "--memory"));
  if (space.pools.size() > 1) NIBBLE_DO(check_possible(space, space.pools[1], true, "--activation-bits"));
  return space;
}

}  // namespace nibble::search
