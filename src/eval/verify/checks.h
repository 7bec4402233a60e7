// The checks, in the order in which they run. Adding one is a file with a function, and a row.
#pragma once

#include <span>
#include <string_view>

#include "eval/verify/examination.h"

namespace nibble {

using CheckFunction = Result<Finding> (*)(Examination&);

// Manifest hashes, a folder that opens, a config.json that agrees with itself, with the recipe and with the manifest.
Result<Finding> check_files(Examination& examination);
// Every value is read: NaN and Inf, scales, dead and constant rows, norms, kept columns.
Result<Finding> check_tensors(Examination& examination);
// With a reference: float tensors are its own, quantized ones as far from it as the manifest says.
Result<Finding> check_weights(Examination& examination);
// Strings, ids, the vocabulary and the end tokens, against the manifest and the reference.
Result<Finding> check_tokenizer(Examination& examination);
// The logits of the manifest's prompt.
Result<Finding> check_fingerprint(Examination& examination);
// A text drawn from the model is not degenerate.
Result<Finding> check_generation(Examination& examination);
// KL divergence, agreement and perplexity ratio against the reference.
Result<Finding> check_divergence(Examination& examination);

struct CheckRow {
  std::string_view name;
  CheckFunction run;
  double effort;  // about, in parts of the whole: for the progress
};
inline constexpr CheckRow kChecks[] = {
    {"files", check_files, 1},          {"tensors", check_tensors, 1},         {"weights", check_weights, 1},
    {"tokenizer", check_tokenizer, 1},  {"fingerprint", check_fingerprint, 1}, {"generation", check_generation, 4},
    {"divergence", check_divergence, 4}};

}  // namespace nibble
