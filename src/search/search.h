// Mixed-precision search: which format every linear's weights, every site's activations and the operands of attention
// take within a budget.
//
// Two engines behind one interface. `knapsack`: how much each variable alone, at each candidate, moves the float
// model's predictions (mean KL divergence on a text), then the exact optimum of the sum within the budget. `tpe`: whole
// models drawn by a tree-structured Parzen estimator, the search of arXiv:2310.05079.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "core/result.h"
#include "core/threads.h"
#include "search/fidelity.h"
#include "search/variables.h"

namespace nibble::search {

enum class Engine : uint8_t { knapsack, tpe };

struct SearchOptions {
  std::filesystem::path model;
  Palette palette;
  Budget budget;
  std::string name;                         // of the resulting recipe
  Json recipe;                              // whose steps and other keys the result takes, as parse_recipe gives it
  std::vector<std::filesystem::path> text;  // joined; none: the model writes it
  int64_t samples = 16, length = 256;       // windows of the text, and their tokens
  uint64_t seed = 0;                        // of where they begin, and of the estimator
  Engine engine = Engine::knapsack;
  int trials = 128;         // tpe
  double alpha = 0;         // tpe: of the memory density in the objective
  bool likelihood = false;  // tpe: accuracy is -NLL of the text, not -KL
  int rounds = 1;           // knapsack: how often, each time around the model found before
  bool front = false;       // knapsack: measure the optimum of other budgets, too
  std::filesystem::path log;
  bool resume = false, force = false;
  ProgressCallback progress;
};

// A whole model that was measured.
struct Point {
  std::string study;  // "uniform", "knapsack", "tpe"
  Choice choice;
  double weight_bits = 0, activation_bits = 0, budget_bits = 0;
  Fidelity measured;
  bool fits = false;
};

// A variable alone.
struct Single {
  size_t variable = 0;
  int candidate = 0;
  double loss = 0;  // KL above that of the base
};

struct SearchReport {
  Space space;
  Point chosen;               // least KL of all that fit
  std::vector<Point> points;  // in the order in which they were found
  std::vector<Single> singles;
  double predicted_kl = 0;  // knapsack: the sum for the choice of the first round; negative: unknown
  double reference_nll = 0;
  int64_t tokens = 0;                // predicted
  int64_t measured = 0, reused = 0;  // runs of a model, and results of earlier ones
  double seconds = 0;
  std::string recipe;  // of the choice: recipe_file.h
};

// `usage`: bad options, budgets and formats; `unsupported`: formats that do not run, a quantized model; `corrupt`: a
// log of something else.
Result<SearchReport> run_search(const SearchOptions& options, ThreadPool& pool);

// Those of the points that no other beats in both bits and KL, by ascending bits.
std::vector<size_t> pareto_front(const std::vector<Point>& points);

}  // namespace nibble::search
