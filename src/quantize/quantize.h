// From a Hugging Face folder to a quantized one: the streaming pipeline.
//
// One block at a time: run the calibration text through it, observe, solve, store, and pass the hidden states of the
// quantized block on to the next. Everything needed to go on after a crash lies in OUT.partial; OUT appears only
// when it is complete.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "core/result.h"
#include "core/threads.h"
#include "quantize/recipe/recipe.h"

namespace nibble {

struct QuantizeOptions {
  std::filesystem::path model, output;
  Recipe recipe;  // with --set and --override applied
  // Text files, joined. Data-free recipes need none; where they are given some, it is used for the report alone.
  std::vector<std::filesystem::path> calibration;
  std::vector<std::filesystem::path> validation;  // optional: errors are also measured on this text
  std::filesystem::path sensitivity;              // observe/sensitivity.h, for recipes that read it; else empty
  int64_t samples = 128;
  int64_t length = 0;        // tokens per sample; 0: min(2048, the model's positions)
  uint64_t seed = 0;         // of the samples' starting points
  int64_t memory_limit = 0;  // bytes of peak resident memory; 0: none
  bool force = false, resume = false;
  ProgressCallback progress;
};

// What a run will need, printed before it starts and by --dry-run.
struct QuantizeEstimate {
  int64_t peak_memory = 0;  // bytes
  int64_t disk = 0;         // bytes of the output, and of the hidden states while it runs
  int64_t output_bytes = 0;
  double bits_per_weight = 0;     // all stored bytes over all parameters
  std::vector<std::string> plan;  // one line per role: formats, kept columns, steps
};

// One linear, as recorded in the manifest. Errors are relative squared errors: |W - W'|^2 / |W|^2 of the weights, and
// of the outputs on calibration text tr(E G E') / tr(W G W') with E = W - W' and the Gram matrix G of the layer's
// input: of weights alone, over all tokens. `rounding_*`: what rounding to nearest on the same grid gives. Negative
// where it was not measured.
//
// `run_*` are of the layer as it will be run, activations quantized, on a sample of the calibration tokens
// (pipeline/run_error.h); `clip_*` of its grids (solve/clip.h).
struct LinearReport {
  std::string name;
  std::string weights, activations;
  int64_t rows = 0, columns = 0, kept = 0, stored_bytes = 0;
  double weight_error = 0;
  double output_error = -1, rounding_output_error = -1;
  double validation_error = -1, rounding_validation_error = -1;
  double damping = -1;  // of the Gram matrix, as a part of its mean diagonal; raised from the recipe's if need be
  std::optional<double> run_error, run_cosine;
  std::optional<double> clip_mean, clip_least;
};

// The input of the linears that read one tensor, on calibration text. `maximum` and `median` are over the channels'
// largest |x|; the kurtosis is that of all values together (normal: 3; absent when all are equal).
struct SiteReport {
  std::string name;    // "blocks.3.qkv"
  int64_t inputs = 0;  // channels
  double maximum = 0, median = 0;
  std::optional<double> kurtosis;
};

struct QuantizeReport {
  std::vector<LinearReport> linears;
  std::vector<SiteReport> sites;  // empty without calibration text
  double bits_per_weight = 0, quantized_bits_per_weight = 0;
  std::optional<double> code_bits;  // of linears whose channels have bits of their own, on average
  int64_t file_bytes = 0;
  int64_t peak_memory = 0;
  double seconds = 0;
  bool resumed = false;
  bool discarded = false;  // what an interrupted run had left behind was thrown away, for want of `resume`
};

// `threads` as for a ThreadPool: each has memory of its own.
Result<QuantizeEstimate> estimate(const QuantizeOptions& options, int threads = 0);
Result<QuantizeReport> quantize(const QuantizeOptions& options, ThreadPool& pool);

}  // namespace nibble
