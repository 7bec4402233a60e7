// The multiple-choice knapsack: one option of every class, least loss, costs within a capacity. Solved exactly.
//
// Dynamic programming over integer costs: after each class, the list of (cost, loss) pairs that no other pair beats
// in both. A pair is dropped when even the Lagrangian relaxation of the classes to come (Sinha and Zoltners 1979) does
// not bring it below a solution that is already known; what is left is usually a few hundred pairs, whatever the costs.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace nibble::search {

struct Option {
  int64_t cost = 0;  // not negative
  double loss = 0;   // finite
};
using OptionClass = std::vector<Option>;  // at least one option

// The sum of the least costs: no capacity below it can be met.
int64_t least_cost(std::span<const OptionClass> classes);

// By class, the number of its option; nullopt when the capacity is below least_cost(). The loss is the least up to
// rounding (a part in 10^12); of equal losses the least cost. Costs and their sum must fit an int64_t.
std::optional<std::vector<int>> solve_knapsack(std::span<const OptionClass> classes, int64_t capacity);

}  // namespace nibble::search
