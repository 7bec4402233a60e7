// nibble recipe: the methods that come with the program.
#include <nibble/quantize.h>

#include <memory>

#include "commands.h"
#include "options.h"

namespace nibble::cli {
namespace {

constexpr const char* kListFooter = "\nExample:\n  nibble recipe list\n";
constexpr const char* kShowFooter =
    "\nA recipe is a JSON file; save it, change it, and hand it to `nibble quantize --recipe FILE`. docs/recipes.md\n"
    "explains every key.\n"
    "\nExamples:\n"
    "  nibble recipe show quik-4b > mine.json\n"
    "  nibble recipe show mxfp4+gptq+hadamard\n"
    "  nibble recipe show quik-4b --set solve.damp=0.05\n";

Json rows_of(const std::vector<RecipeInfo>& list) {
  Json rows = Json::array();
  for (const RecipeInfo& recipe : list)
    rows.push_back({{"name", recipe.name},
                    {"summary", recipe.summary},
                    {"paper", recipe.paper},
                    {"needs_text", recipe.needs_text}});
  return rows;
}

std::string lines_of(const std::vector<RecipeInfo>& list, std::string_view before) {
  std::string out;
  for (const RecipeInfo& recipe : list) {
    out += fmt::format("{:<20} {}", std::string(before) + recipe.name, recipe.summary);
    if (recipe.needs_text) out += out.ends_with('.') ? " Needs text." : "; needs text";
    out += recipe.paper.empty() ? "\n" : fmt::format(" ({})\n", recipe.paper);
  }
  return out;
}

Status list(const Session& session) {
  const auto found = recipes();
  if (!found) return error_of(found);
  const auto modifiers = recipe_modifiers();
  if (!modifiers) return error_of(modifiers);
  if (session.json) return print_json({{"recipes", rows_of(*found)}, {"modifiers", rows_of(*modifiers)}});
  return print(lines_of(*found, "") + "\nadded to any of them, as in mxfp4+gptq+hadamard:\n" +
               lines_of(*modifiers, "+"));
}

struct ShowOptions {
  std::string recipe;
  std::vector<std::string> sets, overrides;
};

Status show(const ShowOptions& options) {
  const auto text = recipe_text(options.recipe, options.sets, options.overrides);
  return text ? print(*text) : error_of(text);
}

void add_list(CLI::App& recipe, Session& session) {
  CLI::App* command = recipe.add_subcommand("list", "Name the recipes that come with the program");
  add_output_options(*command, session);
  command->footer(kListFooter);
  set_action(*command, session, [&session] { return list(session); });
}

void add_show(CLI::App& recipe, Session& session) {
  CLI::App* command = recipe.add_subcommand("show", "Print a recipe as JSON, with its modifiers");
  auto options = std::make_shared<ShowOptions>();
  command->add_option("recipe", options->recipe, "Name or file")->required()->type_name("NAME|FILE");
  command->add_option("--set", options->sets, "Change a parameter of a step")
      ->allow_extra_args(false)
      ->type_name("STEP.KEY=VALUE");
  command->add_option("--override", options->overrides, "Formats of the linears whose name matches")
      ->allow_extra_args(false)
      ->type_name("REGEX=FORMAT");
  add_output_options(*command, session);
  command->footer(kShowFooter);
  set_action(*command, session, [options] { return show(*options); });
}

}  // namespace

void add_recipe(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("recipe", "List and show quantization recipes");
  command->require_subcommand(1);
  add_list(*command, session);
  add_show(*command, session);
}

}  // namespace nibble::cli
