// The best model that fits: formats of the blocks' linears, and of the KV cache, within a budget of bits, of bytes on
// disk or of bytes in memory.
//
// How much each linear alone, in each format, moves the float model's predictions is measured once and kept in a log
// (log.h) that is named after the model's files, the texts and the recipe; every budget after that is a knapsack over
// the same numbers (knapsack.h). Weights are solved as the recipe solves them, with statistics of the float model.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/result.h"
#include "core/threads.h"
#include "quantize/recipe/recipe.h"
#include "search/fidelity.h"
#include "search/variables.h"

namespace nibble::search {

enum class Limit : uint8_t {
  bits,    // average stored bits of the blocks' linears
  files,   // bytes of the weight files
  memory,  // bytes of packed weights, KV cache and workspace
};

struct FitOptions {
  std::filesystem::path model;
  Recipe recipe;     // everything but the weights' formats, which are chosen
  std::string name;  // of the resulting recipe
  // Formats of weights with commas between them, or the name of a palette; the type that the checkpoint's linears have
  // is added. code:col@X: columns have bits of their own, of X stored ones a weight on average over a site. A site that
  // cannot do with so few gets its least.
  std::string palette = "int-g128";
  bool allow_slow = false;  // formats that only the reference multiplies on this machine

  Limit limit = Limit::bits;
  double bits = 0;    // Limit::bits
  int64_t bytes = 0;  // the others
  int64_t context = 0,
          batch = 1;  // tokens of each of the sequences in the KV cache; 0: min(4096, the model's positions)
  std::string cache;  // a format, "auto", or empty: the recipe's

  std::vector<std::filesystem::path> calibration;  // as for quantizing: statistics for the solver
  std::filesystem::path sensitivity;               // of weights, for recipes that read it
  int64_t samples = 128, length = 0;               // of the calibration text; 0: min(2048, the model's positions)
  uint64_t seed = 0;
  std::vector<std::filesystem::path> text;     // to measure on; none: other places of the calibration text
  int64_t text_samples = 16, text_length = 0;  // 0: min(256, the model's positions)

  std::filesystem::path sensitivities;  // folder of logs, made if need be; empty: nothing is kept
  int64_t memory_limit = 0;             // bytes of resident memory while formats are measured; 0: none
  int rounds = 1;  // after the first everything is measured again around the model found, for this budget alone
  bool predict_only = false;  // whole models are not measured, but for those that the log has
  ProgressCallback progress;
};

// Bytes of a choice.
struct FitBytes {
  int64_t files = 0;                                // weight files, headers included
  int64_t linears = 0;                              // of which: matrices of the blocks' linears
  int64_t resident_linears = 0, resident_rest = 0;  // packed in memory
  int64_t cache = 0, workspace = 0;                 // at the context and batch asked for
  int64_t memory() const { return resident_linears + resident_rest + cache + workspace; }
  int64_t read_per_token = 0;  // weights that decoding reads for every token: linears and head, packed
};

struct FitPlan {
  Choice choice;
  std::string study;  // "knapsack" or "uniform"
  std::string cache;  // format
  double bits = 0;    // average of the blocks' linears
  FitBytes bytes;
  double predicted_kl = 0;           // the sum of what was measured of each linear, and of the cache
  std::optional<Fidelity> measured;  // as a whole, on the text
  bool fits = false;
};

// What one linear alone does in one format.
struct FitSingle {
  size_t variable = 0;
  int candidate = 0;
  double kl = 0;
};

struct FitReport {
  Spec spec;
  Space space;
  FitPlan chosen;
  // Every format of the palette in all linears, by ascending bits; with averages in it also the one that the recipe
  // alone would have in this budget.
  std::vector<FitPlan> uniform;
  std::vector<FitPlan> curve;  // the optima of other budgets, by ascending size
  std::vector<FitSingle> singles;
  int64_t limit_bytes = 0, left_bytes = 0;  // of the budget, in what it counts
  int64_t context = 0;                      // tokens that the cache was counted with
  std::string recipe;                       // of the choice
  std::filesystem::path log;
  std::vector<std::string> notes;  // for the user: caches that do not apply
  int64_t tokens = 0;              // predicted for every number
  int64_t measured = 0, reused = 0;
  double seconds = 0;
};

// `usage`: bad options and formats, a budget below the least, which is named with its parts, and a memory limit below
// what measuring takes; `unsupported`: a quantized model, formats without a kernel; `corrupt`: a damaged log.
Result<FitReport> run_fit(const FitOptions& options, ThreadPool& pool);

// Mean divergence of a written model from the original, and its likelihood, on the text that the fit measured on.
Result<Fidelity> measure_written(const FitOptions& options, const std::filesystem::path& model, ThreadPool& pool);

// How the blocks' linears are stored: blocks down, roles across, one character for each format, and what they mean.
std::string picture(const FitReport& report);

// Size against predicted divergence, and against the speed that reading the weights at `bandwidth` bytes per second
// allows (0: not drawn).
std::string fit_svg(const FitReport& report, const std::string& title, double bandwidth);

}  // namespace nibble::search
