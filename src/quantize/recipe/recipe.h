// A quantization method as data. docs/recipes.md is the user's page on the schema.
//
//   { "name": "...", "paper": "...", "summary": "...",
//     "weights": FORMAT, "activations": FORMAT,
//     "cache": FORMAT,                               optional: of keys and values in the KV cache, "f32" by default
//     "attention": {"q": FORMAT, "k": FORMAT, "p": FORMAT, "v": FORMAT},    optional, and each of them
//     "head": {"weights": FORMAT, "activations": FORMAT},   optional: the output matrix, rounded to nearest
//     "steps": [ {"id": ID, KIND: {parameters}} ... ],
//     "except": [ {"roles": [...], "families": [...], "blocks": [...] | "first:N" | "last:N",
//                  "weights": FORMAT, "activations": FORMAT, "set": {ID: {parameter: value}},
//                  "attention": {...}} ... ],                 without "roles": attention belongs to a block
//     "overrides": [ {"linears": REGEX, "weights": FORMAT, "activations": FORMAT} ... ] }
//
// KIND is a row of the step list (steps.cpp): first those that work on the model, then on sites, then on linears. An
// exception applies to linears whose role, family and block are named (an absent list names all); later exceptions win,
// and overrides, which go by a linear's canonical name, win over all exceptions. A null parameter in "set" removes the
// parameter. Parameters of a site's steps (observe, split) and its activations must come out equal for all quantized
// linears of the site: a conflict is an error that names the roles.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/result.h"
#include "format/number_format.h"
#include "quantize/recipe/name_pattern.h"
#include "quantize/step.h"

namespace nibble {

// Integer weights of the output matrix; a tied one is then stored apart from the embedding, which stays as it is.
struct HeadFormats {
  NumberFormat weights, activations;
};

struct Recipe {
  std::string name;
  std::optional<HeadFormats> head;             // nothing: the head keeps the type that the checkpoint has
  std::vector<StepPointer> model_steps;        // those of its steps that work on the whole model, in order
  Json source;                                 // canonical JSON after --set and --override: what is stored in the model
  std::vector<NamePattern> override_patterns;  // "linears" of its overrides, in order
};

// Validates everything that can be validated without a model; unknown keys, steps and parameters are refused by name
// (`usage`). `where` starts the message.
Result<Recipe> parse_recipe(const Json& source, std::string where);
// A shipped recipe by name, or a file (anything with a slash or ending in .json), and modifiers after it:
// "mxfp4+gptq+hadamard". Unknown names list the shipped ones.
Result<Recipe> load_recipe(const std::string& name_or_file);
// --set STEP.KEY[.KEY]=VALUE (VALUE is JSON, or else a string; null removes), attention.OPERAND=FORMAT (nothing after
// the = removes it; attention=null removes all), or weights=, activations=, cache=, and
// --override 'REGEX=WEIGHTS[/ACTIVATIONS]' (the regex must match the whole canonical name of a linear, e.g.
// "blocks\\.[0-3]\\.down").
Result<Recipe> customise(const Recipe& recipe, std::span<const std::string> sets,
                         std::span<const std::string> overrides);
// Id of the step that gives bits to linears in this format, which leaves them open; empty where there is none.
std::string step_of_bits(const Recipe& recipe, const NumberFormat& weights);

struct ShippedRecipe {
  std::string_view name, text;
};
// All embedded recipes, by name.
std::span<const ShippedRecipe> shipped_recipes();
// The modifiers, likewise: what any recipe can be given more of. A modifier is data:
//   { "name": "...", "summary": "...", "paper": "...",
//     "insert": [ steps ],           each put behind the recipe's steps of its scope; it must not have such a step
//     "solve": {KIND: {...}} }       solves in place of the recipe's solving step, whose id and other parameters stay
std::span<const ShippedRecipe> shipped_modifiers();

}  // namespace nibble
