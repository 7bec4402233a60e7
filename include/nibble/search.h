// Mixed-precision search: which number format each linear's weights, each site's activations and the operands of each
// block's attention take within a budget.
#pragma once

#include <nibble/progress.h>
#include <nibble/result.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nibble {

// knapsack: what each variable alone does to the float model's predictions, and the exact optimum of the sum.
// tpe: whole models proposed by a tree-structured Parzen estimator (arXiv:2310.05079).
enum class SearchEngine { knapsack, tpe };

struct SearchRequest {
  std::filesystem::path model;   // a Hugging Face folder
  std::filesystem::path output;  // the recipe file to write
  // What to choose from: a palette by name (palettes()), or formats with commas between them, the narrowest to the
  // widest in any order. `formats` of weights and `activations` replace the palette's; without both, activations are
  // f32.
  std::string palette, formats, activations;
  // Formats of attention's operands (queries, keys, probabilities, values), the same list for all, or "palette"; empty:
  // attention is not chosen, and computed as `base` says.
  std::string attention;
  // A recipe, by name or file, whose steps the result takes; empty: rounding to nearest. The search itself rounds.
  std::string base;

  // The budget: `bits` or `memory`. Average stored bits of a weight; with `all` of a value of the weights, of the
  // products' inputs and of the KV cache of `length` tokens. Or bytes of all that is stored, with `all` the KV cache
  // too.
  std::optional<double> bits;
  std::optional<int64_t> memory;
  bool all = false;
  int64_t length = 256;
  std::optional<double> activation_bits;  // average of a product's input, as a budget of its own

  std::vector<std::filesystem::path> text;  // files, joined; none: the model writes its own
  int64_t samples = 16;
  int64_t window = 0;  // tokens of a sample; 0: min(256, the model's positions)
  uint64_t seed = 0;

  SearchEngine engine = SearchEngine::knapsack;
  int trials = 128;         // tpe
  double alpha = 0;         // tpe: objective = accuracy + alpha * 32 / bits
  bool likelihood = false;  // tpe: accuracy = -NLL; else -KL
  int rounds = 1;           // knapsack: rounds after the first are around the model found so far

  std::filesystem::path log;   // of what was measured; empty: the output's name, ending in .search.jsonl
  std::filesystem::path plot;  // SVG, bits against KL; empty: none
  bool resume = false;         // go on with an existing log
  bool force = false;          // replace existing files
  int threads = 0;
  ProgressCallback progress;
};

// A model that was measured.
struct SearchPoint {
  std::string study;  // "uniform", "knapsack" or "tpe"
  std::string label;  // of a uniform one: "bfp4:b16, bfp4:b16", with attention a third
  double weight_bits = 0, activation_bits = 0;
  double budget_bits = 0;  // of what the budget counts
  double kl = 0;           // from the float model, mean over the text's tokens, nats
  double nll = 0;          // of the text, nats
  bool fits = false;       // in the budget
  bool front = false;      // no other point has fewer bits and less KL
};

// What was chosen for one variable.
struct SearchedOperand {
  std::string name;  // "blocks.3.q.weights", "blocks.3.gate_up.activations", "blocks.3.attention.k"
  std::string format;
  double bits = 0;  // of a value
};

// By how much one operand alone, in one format, raises the KL.
struct Sensitivity {
  std::string name, format;
  double kl = 0;
};

struct SearchOutcome {
  SearchPoint chosen;
  std::vector<SearchPoint> points;
  std::vector<SearchedOperand> operands;
  std::vector<Sensitivity> sensitivities;  // knapsack
  std::optional<double> predicted_kl;      // knapsack: the sum of the sensitivities
  double reference_nll = 0;                // of the float model
  int64_t tokens = 0;                      // predicted for each model
  int64_t measured = 0, reused = 0;        // models run; results taken from the log
  double seconds = 0;
  std::string recipe;  // what was written to the output
  std::filesystem::path log;
};

// `usage`: no budget, an impossible one (the message names the least), unknown formats or files that exist;
// `unsupported`: formats that do not run together, or a model that is quantized already; `corrupt`: the log of another
// model or text.
Result<SearchOutcome> search_recipe(const SearchRequest& request);

struct PaletteInfo {
  std::string name, summary, weights, activations, attention;
  bool by_channel = false;  // averages of bits by channel: for a fit (fit.h), not for a search
};
std::vector<PaletteInfo> palettes();

}  // namespace nibble
