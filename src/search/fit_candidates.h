// What a fit chooses from: the formats of a palette, and for each of them the recipe and what it does to every linear.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/model.h"
#include "quantize/observe/sensitivity.h"
#include "quantize/recipe/plan.h"
#include "quantize/recipe/recipe.h"
#include "search/fit.h"
#include "search/variables.h"

namespace nibble::search {

struct Candidates {
  std::unique_ptr<ModelSource> source;
  Spec spec;
  Palette palette;
  size_t measured = 0;          // formats of it that are measured: those behind them are averages that are guessed
  size_t stored = 0;            // of the palette: the type that the checkpoint has
  std::string bits_step;        // of the recipe, that gives bits to channels; empty without one
  std::vector<Recipe> recipes;  // by format
  std::vector<std::vector<std::vector<SitePlan>>> plans;  // by format and block
  std::optional<SensitivityFile> sensitivities;           // of single weights, from outside
  bool observes = false;                                  // some step needs calibration text

  const LinearPlan& plan_of(size_t format, int64_t block, Role role) const;
};

// Lengths that are 0 in the options get their defaults. `usage` for options that are out of range, a palette and a
// recipe that do not go together, and text or sensitivities that are missing; `unsupported` for a quantized model.
Result<Candidates> open_candidates(FitOptions& options);

// The original, with the lengths of its texts: as much as comparing a written model with it takes.
Result<std::unique_ptr<ModelSource>> open_original(FitOptions& options);

// One more format of the palette: bits by column with another average.
Status add_average(const FitOptions& options, double average, Candidates& candidates);

}  // namespace nibble::search
