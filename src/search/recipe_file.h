// A choice as a recipe: the commonest formats for all, and an override for every linear that has others.
#pragma once

#include <string>

#include "core/json.h"
#include "core/result.h"
#include "model/spec.h"
#include "search/variables.h"

namespace nibble::search {

// The text of a recipe file, to be read by people: one line for each step and each override. All keys of `recipe` but
// name, summary, paper and the formats are kept. `usage` when the formats do not go with its steps.
Result<std::string> recipe_text(const Spec& spec, const Space& space, const Choice& choice, const Json& recipe,
                                const std::string& name, const std::string& summary);

// The same where only weights are chosen: `base` with the commonest format for all weights and overrides, for the
// blocks of a role together, for the others. Its own formats of weights go, those of activations stay. `cache`: of keys
// and values; empty: the recipe's.
Result<std::string> fitted_recipe_text(const Spec& spec, const Space& space, const Choice& choice, const Json& base,
                                       const std::string& cache, const std::string& name, const std::string& summary);

}  // namespace nibble::search
