// What a search chooses, and what each choice costs.
//
// A variable is one operand whose number format is open: the weights of a linear, the activations of a site (whose
// linears share them), or one of the four operands of a block's attention. All variables of an operand have the
// candidates of one palette. Every variable belongs to one pool, whose limit the costs of its choices may not exceed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "format/attention_formats.h"
#include "format/number_format.h"
#include "model/spec.h"

namespace nibble::search {

// --- palettes ---------------------------------------------------------------------------------------------------

// The formats to choose from, in the order given. Without `attention` its operands are not chosen.
struct Palette {
  std::vector<NumberFormat> weights, activations, attention;
  // By format of weights: stored bits a weight on average where the format leaves open how many a column has, else 0.
  std::vector<double> averages{};

  // A format of weights as it is written in a list: "int4:g32", "code:col@2.5".
  std::string name(size_t weights) const;
  bool gives_averages() const;
};
std::string name_of(const NumberFormat& format, double average);
// The format that has averages: every column has bits of its own.
NumberFormat open_columns();

// A named palette: adding one is adding a row.
struct PaletteRow {
  std::string_view name, summary;
  std::string_view weights, activations, attention;  // formats with commas between them

  // Averages of bits by channel, which a fit chooses among (fit.h) and a search refuses.
  bool gives_averages() const { return weights.find('@') != std::string_view::npos; }
};
std::span<const PaletteRow> palette_rows();

// `name`: a row, or empty. `weights`, `activations` and `attention`: formats with commas between them that replace the
// row's; without row and `activations` these are f32. Attention is chosen only where `attention` says so: "palette" for
// the row's. Weights in code:col have their average behind an @, which other formats have not. `usage` for no weights
// at all, an unknown name (the message lists the palettes without averages), a format that does not parse, does not
// serve or is named twice.
Result<Palette> read_palette(std::string_view name, std::string_view weights, std::string_view activations,
                             std::string_view attention = {});
// A palette's name, or formats of weights with commas between them; activations are f32. Errors as above, with `where`
// in front.
Result<Palette> read_palette_or_formats(std::string_view text, std::string_view where);

// --- budgets ----------------------------------------------------------------------------------------------------

// One of `bits` and `memory` must be given.
struct Budget {
  std::optional<double> bits{};     // stored bits on average
  std::optional<int64_t> memory{};  // bytes of all stored tensors (with `all`: and of the KV cache of `length`)
  bool all = false;                 // average over weights, the products' inputs and the KV cache of `length` tokens
  int64_t length = 0;               // tokens, for `all` and for attention's operands
  std::optional<double> activation_bits{};  // average of the products' inputs, apart from the weights
};

// What the model stores that is not chosen.
struct Unchosen {
  int64_t stored_bits = 0;                       // all tensors but the matrices of the blocks' linears
  double cache_bits = 32;                        // of a value of the KV cache
  std::vector<AttentionFormats> attention = {};  // by block
};

// --- variables --------------------------------------------------------------------------------------------------

enum class Operand : uint8_t { weights, activations, attention };

struct Variable {
  std::string name;  // "blocks.3.q.weights", "blocks.3.gate_up.activations", "blocks.3.attention.k"
  Operand operand = Operand::weights;
  int64_t block = 0;
  std::vector<Role> roles;     // the linear, or all linears of the site
  std::string_view attention;  // "q", "k", "p" or "v"
  bool cached = false;         // what the KV cache holds
  int64_t values = 0;  // numbers in the format: N K; for each token, K once for every linear, or those of all heads
  std::vector<int64_t> bits;     // by candidate: of all of them, with all that they share
  std::vector<int64_t> charged;  // by candidate: what a budget counts; empty: as `bits`
  // By candidate, where the palette has averages: of this site's columns, not below the least that it can do with.
  std::vector<double> averages{};
};

// Costs that have a limit in common.
struct Pool {
  std::vector<size_t> variables;
  int64_t tokens = 1;      // all but weights are counted so many times
  int64_t fixed_bits = 0;  // part of the limit that is spent already
  int64_t fixed_values = 0;
  std::optional<int64_t> limit;  // bits
};

// By variable, the number of the candidate in the palette.
using Choice = std::vector<int>;

struct Space {
  Palette palette;
  std::vector<AttentionFormats> attention;  // by block, where it is not chosen; none: floats
  std::vector<Variable> variables;          // by block; a block's sites in execution order: activations, then weights
  std::vector<Pool> pools;

  const std::vector<NumberFormat>& candidates(const Variable& variable) const {
    if (variable.operand == Operand::attention) return palette.attention;
    return variable.operand == Operand::weights ? palette.weights : palette.activations;
  }
  bool chooses_attention() const { return !palette.attention.empty(); }
  // Of a variable's candidate: its format, and the average of its columns where they have bits of their own.
  std::string name(const Variable& variable, int candidate) const;
  // Of a candidate in the pool that the variable belongs to.
  int64_t cost(const Pool& pool, size_t variable, int candidate) const;
  int64_t cost(const Pool& pool, const Choice& choice) const;  // with what is fixed
  bool fits(const Choice& choice) const;
  // Bits per value of the choice's weights, of its activations and attention, and of what the first pool counts.
  double weight_bits(const Choice& choice) const;
  double activation_bits(const Choice& choice) const;
  double budget_bits(const Choice& choice) const;
  // The same candidates everywhere.
  Choice uniform(int weights, int activations, int operands = 0) const;  // of attention: `operands`
};

// Bits of a linear's weights in a format of the palette: as they are stored, and what a budget counts. `average`: of
// all weights of its site, where columns have bits of their own.
struct WeightCost {
  int64_t stored = 0, charged = 0;
  double average = 0;
};
// `format`: its number. Empty: stored_bits() for both.
using WeightCosts = std::function<WeightCost(int64_t block, Role role, size_t format)>;

// The blocks' linears of a model, and its attention where the palette has formats for it. With averages in the palette
// a site's linears are one variable ("blocks.3.qkv.weights"): they share the bits of their columns. `usage` for no
// budget, an ambiguous one, and one that the palette's narrowest formats exceed: the message names the least that is
// possible.
Result<Space> make_space(const Spec& spec, Palette palette, const Budget& budget, const Unchosen& unchosen,
                         const WeightCosts& costs = {});
// Average stored bits: what a limit of so many bits on `values` numbers allows.
int64_t limit_of(double bits, int64_t values);

// Stored bits of a matrix [rows][columns] in a format, as format/linear_weight.h stores it.
int64_t stored_bits(const NumberFormat& format, int64_t rows, int64_t columns);
// Bits of a token's row of `columns` inputs: like a row of weights, and where a scale (and an offset) is found for each
// token, 32 (and 8) bits for it.
int64_t input_bits(const NumberFormat& format, int64_t columns);

}  // namespace nibble::search
