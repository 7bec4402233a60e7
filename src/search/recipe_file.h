// A choice as a recipe: the commonest formats for all, and an override for every linear that has others.
#pragma once

#include <string>

#include "core/json.h"
#include "core/result.h"
#include "model/spec.h"
#include "quantize/recipe/recipe.h"
#include "search/variables.h"

namespace nibble::search {

// The text of a recipe file, to be read by people: one line for each step and each override. All keys of `recipe` but
// name, summary, paper and the formats are kept. `usage` when the formats do not go with its steps.
Result<std::string> recipe_text(const Spec& spec, const Space& space, const Choice& choice, const Json& recipe,
                                const std::string& name, const std::string& summary);

// The same where only weights are chosen: `base` with the commonest format for all weights and overrides, for the
// blocks of a role together, for the others. Its own formats of weights go, those of activations stay. `cache`: of keys
// and values; empty: the recipe's.
// Where the palette has averages, the commonest is that of the step `bits_step`, and others are exceptions for the
// sites.
Result<std::string> fitted_recipe_text(const Spec& spec, const Space& space, const Choice& choice, const Json& base,
                                       const std::string& bits_step, const std::string& cache, const std::string& name,
                                       const std::string& summary);
// A recipe whose weights leave open how many bits a column has, with an average of stored bits for the step that says
// it; sites that cannot do with so few get their least.
Result<Recipe> with_average(const Recipe& recipe, const Spec& spec, const std::string& bits_step, double average);

}  // namespace nibble::search
