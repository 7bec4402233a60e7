// The budgets of `nibble quantize`: --fit, --size and --bits, and what goes with them.
#pragma once

#include <nibble/fit.h>

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "session.h"

namespace nibble::cli {

// As typed.
struct FitSettings {
  FitRequest request;
  std::string memory, size;  // "3.5G"; "auto" for memory
  std::optional<double> bits;
  std::string recipe_file;
  bool measure = false;
  std::vector<const CLI::Option*> others;  // but for the budgets
  bool asked() const;
  // --bits alone, and no palette: a recipe that gives bits to channels takes it as its own average.
  bool asks_for_own_bits() const;
  Status check() const;  // options of a fit without a budget
};
void add_fit_options(CLI::App& command, FitSettings& settings);

struct FittedRecipe {
  FitRequest request;
  FitOutcome outcome;
  std::string recipe_file;  // empty for a dry run
  std::string text;         // the plan for people
  Json json;
};
// `quantize`: what the rest of the command line says. A dry run writes no recipe and measures no whole model.
Result<FittedRecipe> fit_recipe(const FitSettings& settings, const QuantizeRequest& quantize, bool dry_run,
                                const Session& session);

// After quantizing: what was written beside what was predicted; with --measure the model's KL, too.
struct CheckedFit {
  std::string text;
  Json json;
};
Result<CheckedFit> check_fit(const FittedRecipe& fitted, const FitSettings& settings, int64_t file_bytes,
                             const QuantizeRequest& quantize);

}  // namespace nibble::cli
