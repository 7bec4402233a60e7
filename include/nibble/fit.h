// The best model that fits: which format every linear, and the KV cache, take within a budget of average bits, of bytes
// on disk or of bytes in memory.
#pragma once

#include <nibble/progress.h>
#include <nibble/quantize.h>
#include <nibble/result.h>
#include <nibble/search.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nibble {

struct FitRequest {
  // Of it, `model`, `output` (whose name the recipe gets), `recipe` and `sets`, `calibration`, `sensitivity`,
  // `samples`, `length`, `seed`, `threads`, `memory_limit` (while formats are measured) and `progress` are used. The
  // recipe supplies everything but the weights' formats; it must have no `overrides`. Empty: "gptq-w4a16-g128", or
  // "rtn-w4a16-g128" without calibration text; "cmpq+gptq" for a palette of bits by channel.
  QuantizeRequest quantize;

  // The budget, one of them. `memory`: packed weights, KV cache of `batch` sequences of `context` tokens, workspace;
  // `any_memory`: what is free on this machine now, less memory_reserve(). `size`: bytes of the weight files. `bits`:
  // average stored bits of a weight of the blocks' linears.
  std::optional<int64_t> memory, size;
  bool any_memory = false;
  std::optional<double> bits;
  int64_t context = 0, batch = 1;  // 0: min(4096, the model's positions)

  // A palette's name (palettes(); its weights are used), or formats of weights with commas between them; the type that
  // the checkpoint has is always there, too. "code:col@2.5": bits of their own for the input channels of a site, 2.5
  // stored ones a weight on average. Empty: "int-g128", or "channels" where the recipe gives bits to channels.
  std::string palette;
  bool allow_slow = false;  // also formats that only the reference multiplies on this machine
  // Of keys and values: a format, or "auto" to have it chosen. Empty: the recipe's; "auto" for a budget of memory where
  // it has none.
  std::string cache;

  std::vector<std::filesystem::path> text;  // to measure on; none: other places of the calibration text
  int64_t text_samples = 16;
  int64_t text_window = 0;  // tokens of a sample; 0: min(256, the model's positions)

  // Folder of what was measured, one file for each model, text and recipe; empty: default_sensitivities().
  std::filesystem::path sensitivities;
  int rounds = 1;  // after the first, everything is measured again around the model found, for this budget alone
  std::filesystem::path recipe_file;  // to write; empty: none
  bool predict_only = false;          // do not measure the chosen model as a whole, nor the uniform ones
  std::filesystem::path plot;         // SVG: bits, and tokens per second as a model, against KL; empty: none
};

// Bytes.
struct FitSizes {
  int64_t files = 0;                            // all weight files
  int64_t linears = 0;                          // of which: matrices of the blocks' linears
  int64_t packed_linears = 0, packed_rest = 0;  // in memory
  int64_t cache = 0, workspace = 0;             // at the context and batch asked for
  int64_t memory = 0;                           // the sum of the last four
};

// A model that was considered. KL from the float model: means over the text's tokens, nats.
struct FitCandidate {
  std::string study;   // "knapsack", or "uniform"
  std::string format;  // of a uniform one
  std::string cache;   // of keys and values
  double bits = 0;     // stored, of a weight of the blocks' linears
  FitSizes sizes;
  double predicted_kl = 0;  // the sum of what its parts do alone
  std::optional<double> measured_kl, measured_nll;
  bool fits = false;
};

struct FitOutcome {
  FitCandidate chosen;
  std::vector<FitCandidate> uniform, curve;  // one format everywhere; the optima of other budgets
  std::vector<SearchedOperand> operands;     // what was chosen
  std::vector<Sensitivity> sensitivities;
  int64_t limit_bytes = 0, left_bytes = 0;  // of the budget; 0 for `bits`
  int64_t context = 0, batch = 0;
  std::string recipe_name;    // that the fit went out from
  std::string recipe;         // a recipe file
  std::string picture;        // formats by block and role, for a terminal
  std::filesystem::path log;  // of what was measured
  std::vector<std::string> notes;
  int64_t tokens = 0;                // that every KL is a mean over
  int64_t measured = 0, reused = 0;  // models run; results taken from the log
  double bandwidth = 0;              // bytes per second that the plot's tokens per second assume; 0: not measured
  double seconds = 0;
};

// `usage`: no budget or several, one below the least that is possible (the message names it and what takes it), bad
// formats; `unsupported`: formats without a kernel on this machine, a quantized model; `corrupt`: a damaged log.
Result<FitOutcome> fit(const FitRequest& request);

// The divergence of a model that was written with the fitted recipe, measured as the fit did: mean KL in nats.
Result<double> measure_fit(const FitRequest& request, const std::filesystem::path& model);

// $XDG_CACHE_HOME/nibble/sensitivities, or ~/.cache/nibble/sensitivities; empty where neither is known.
std::filesystem::path default_sensitivities();
// Bytes that `any_memory` leaves alone: a tenth of what is free, 256 MiB at least.
int64_t memory_reserve(int64_t free_bytes);

}  // namespace nibble
