// From a Hugging Face folder to a quantized one.
#pragma once

#include <nibble/progress.h>
#include <nibble/result.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nibble {

struct QuantizeRequest {
  std::filesystem::path model;         // the Hugging Face folder
  std::filesystem::path output;        // appears when complete; until then everything is in OUTPUT.partial
  std::string recipe;                  // name of a shipped recipe, or a file
  std::vector<std::string> sets;       // "STEP.KEY=VALUE": changes to the recipe's steps
  std::vector<std::string> overrides;  // "REGEX=WEIGHTS[/ACTIVATIONS]": formats of the linears a pattern names
  // Text files, joined. Data-free recipes need none; what they are given serves the report alone.
  std::vector<std::filesystem::path> calibration;
  std::vector<std::filesystem::path> validation;  // optional: output errors are also measured on this text
  std::filesystem::path sensitivity;              // of weights (docs/learned-levels.md), for recipes that read it
  int64_t samples = 128;                          // of the calibration text
  int64_t length = 0;                             // tokens per sample; 0: min(2048, the model's positions)
  uint64_t seed = 0;                              // of where the samples start
  int threads = 0;           // 0: NIBBLE_THREADS, or else one per usable processor; never changes the result
  int64_t memory_limit = 0;  // bytes of peak resident memory; 0: none
  bool force = false;        // replace an existing output
  bool resume = false;       // go on from OUTPUT.partial
  ProgressCallback progress;
};

// What a run will need.
struct QuantizePlan {
  int64_t peak_memory_bytes = 0;
  int64_t disk_bytes = 0;  // of the output and of the hidden states while it runs
  int64_t output_bytes = 0;
  double bits_per_weight = 0;
  std::vector<std::string> lines;  // one per role: formats, kept columns, steps
};

// One quantized linear. Errors are relative and squared: of the weights, and of the outputs on calibration and on
// validation text, as far as the weights cause them; `rounding_*`: what rounding to nearest on the same grid gives.
// Negative: not measured. `run_error` and `run_cosine` compare the output of the layer as it will be run, activations
// quantized, with that of the original on a sample of the calibration text; `clip_*` say how much of the weights' range
// the grids hold (1: nothing is clipped). docs/evidence.md defines them.
struct LinearOutcome {
  std::string name, weights, activations;
  int64_t rows = 0, columns = 0, kept_columns = 0, stored_bytes = 0;
  double weight_error = 0;
  double output_error = -1, rounding_output_error = -1;
  double validation_error = -1, rounding_validation_error = -1;
  double damping = -1;  // that the solver used, as a part of the Gram matrix's mean diagonal
  std::optional<double> run_error, run_cosine;
  std::optional<double> clip_mean, clip_least;
};

struct QuantizeOutcome {
  std::vector<LinearOutcome> linears;
  double bits_per_weight = 0, quantized_bits_per_weight = 0;
  std::optional<double> code_bits;  // of a weight's code, on average, where channels have bits of their own
  int64_t file_bytes = 0, peak_memory_bytes = 0;
  double seconds = 0;
  bool resumed = false;
  bool discarded = false;  // what an interrupted run had left behind was thrown away, for want of `resume`
};

// Errors: `usage` for a recipe, calibration text or memory limit that cannot work, or an output that exists or would
// overwrite the model; `corrupt` for damaged files and for a resume of something else (names the field that differs);
// `unsupported`; `resources` for a full disk or too little memory; `io`. After an error or a crash OUTPUT is as it was
// before and OUTPUT.partial can be resumed.
Result<QuantizeOutcome> quantize(const QuantizeRequest& request);

// What quantize() would do, without doing it.
Result<QuantizePlan> estimate(const QuantizeRequest& request);

struct RecipeInfo {
  std::string name, summary, paper;  // the last two may be empty
  bool needs_text = false;           // for calibration
};
// The recipes that come with the program, by name.
Result<std::vector<RecipeInfo>> recipes();
// What can be added to a recipe's name: "mxfp4+gptq+hadamard".
Result<std::vector<RecipeInfo>> recipe_modifiers();
// A recipe's JSON text (indented) with changes applied; `recipe`, `sets` and `overrides` as in QuantizeRequest.
Result<std::string> recipe_text(const std::string& recipe, const std::vector<std::string>& sets = {},
                                const std::vector<std::string>& overrides = {});
// How a recipe that gives bits to channels, or to groups of them, is told its average of stored bits a weight: what to
// add to `sets` ("widths.bits=3.2", "widths.count=stored"). Nothing for other recipes.
Result<std::vector<std::string>> bits_settings(const std::string& recipe, double bits);

}  // namespace nibble
