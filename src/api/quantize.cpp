#include <nibble/quantize.h>

#include "api/guard.h"
#include "api/threads.h"
#include "quantize/quantize.h"
#include "quantize/recipe/recipe.h"

namespace nibble {
namespace {

Result<Recipe> recipe_of(const std::string& name_or_file, const std::vector<std::string>& sets,
                         const std::vector<std::string>& overrides) {
  NIBBLE_TRY(Recipe recipe, load_recipe(name_or_file));
  if (sets.empty() && overrides.empty()) return recipe;
  return customise(recipe, sets, overrides);
}

Status expect_not_negative(std::string_view name, int64_t value) {
  if (value >= 0) return {};
  return fail(ErrorCode::usage, "{} is {}; expected 0 or more", name, value);
}

Result<QuantizeOptions> options_of(const QuantizeRequest& request) {
  if (request.model.empty()) return fail(ErrorCode::usage, "no model folder is given");
  if (request.output.empty()) return fail(ErrorCode::usage, "no output folder is given");
  if (request.samples < 1) return fail(ErrorCode::usage, "samples is {}; expected at least 1", request.samples);
  NIBBLE_DO(expect_not_negative("length", request.length));
  NIBBLE_DO(expect_not_negative("memory limit", request.memory_limit));
  QuantizeOptions options;
  NIBBLE_TRY(options.recipe, recipe_of(request.recipe, request.sets, request.overrides));
  options.model = request.model;
  options.output = request.output;
  options.calibration = request.calibration;
  options.validation = request.validation;
  options.sensitivity = request.sensitivity;
  options.samples = request.samples;
  options.length = request.length;
  options.seed = request.seed;
  options.memory_limit = request.memory_limit;
  options.force = request.force;
  options.resume = request.resume;
  options.progress = request.progress;
  return options;
}

LinearOutcome outcome_of(const LinearReport& report) {
  return {report.name,
          report.weights,
          report.activations,
          report.rows,
          report.columns,
          report.kept,
          report.stored_bytes,
          report.weight_error,
          report.output_error,
          report.rounding_output_error,
          report.validation_error,
          report.rounding_validation_error,
          report.damping,
          report.run_error,
          report.run_cosine,
          report.clip_mean,
          report.clip_least};
}

QuantizeOutcome outcome_of(const QuantizeReport& report) {
  QuantizeOutcome outcome;
  for (const LinearReport& linear : report.linears) outcome.linears.push_back(outcome_of(linear));
  outcome.bits_per_weight = report.bits_per_weight;
  outcome.quantized_bits_per_weight = report.quantized_bits_per_weight;
  outcome.code_bits = report.code_bits;
  outcome.file_bytes = report.file_bytes;
  outcome.peak_memory_bytes = report.peak_memory;
  outcome.seconds = report.seconds;
  outcome.resumed = report.resumed;
  outcome.discarded = report.discarded;
  return outcome;
}

// A text field of a recipe, "" when it is absent.
std::string text_of(const Json& source, const char* key) {
  const auto found = source.find(key);
  return found != source.end() && found->is_string() ? found->get<std::string>() : std::string();
}

bool observes(const Json& source) {
  for (const char* key : {"steps", "insert"})
    for (const Json& step : source.value(key, Json::array()))
      if (step.contains("observe")) return true;
  return false;
}

Result<std::vector<RecipeInfo>> infos_of(std::span<const ShippedRecipe> list) {
  std::vector<RecipeInfo> infos;
  for (const ShippedRecipe& shipped : list) {
    NIBBLE_TRY(const Json source, parse_json(shipped.text, shipped.name));
    infos.push_back(
        {std::string(shipped.name), text_of(source, "summary"), text_of(source, "paper"), observes(source)});
  }
  return infos;
}

}  // namespace

Result<QuantizeOutcome> quantize(const QuantizeRequest& request) {
  return guarded([&]() -> Result<QuantizeOutcome> {
    NIBBLE_TRY(const QuantizeOptions options, options_of(request));
    NIBBLE_TRY(const int threads, thread_count(request.threads));
    ThreadPool pool(threads);
    NIBBLE_TRY(const QuantizeReport report, quantize(options, pool));
    return outcome_of(report);
  });
}

Result<QuantizePlan> estimate(const QuantizeRequest& request) {
  return guarded([&]() -> Result<QuantizePlan> {
    NIBBLE_TRY(const QuantizeOptions options, options_of(request));
    NIBBLE_TRY(const int threads, thread_count(request.threads));
    NIBBLE_TRY(QuantizeEstimate found, estimate(options, threads));
    return QuantizePlan{found.peak_memory, found.disk, found.output_bytes, found.bits_per_weight,
                        std::move(found.plan)};
  });
}

Result<std::vector<RecipeInfo>> recipes() {
  return guarded([] { return infos_of(shipped_recipes()); });
}

Result<std::vector<RecipeInfo>> recipe_modifiers() {
  return guarded([] { return infos_of(shipped_modifiers()); });
}

Result<std::string> recipe_text(const std::string& recipe, const std::vector<std::string>& sets,
                                const std::vector<std::string>& overrides) {
  return guarded([&]() -> Result<std::string> {
    NIBBLE_TRY(const Recipe found, recipe_of(recipe, sets, overrides));
    return dump_json(found.source, 2) + "\n";
  });
}

Result<std::vector<std::string>> bits_settings(const std::string& recipe, double bits) {
  return guarded([&]() -> Result<std::vector<std::string>> {
    NIBBLE_TRY(const Recipe found, recipe_of(recipe, {}, {}));
    NIBBLE_TRY(const NumberFormat weights, parse_format(found.source.value("weights", "")));
    if (const std::string id = step_of_bits(found, weights); !id.empty())
      return std::vector<std::string>{fmt::format("{}.bits={}", id, bits), id + ".count=stored"};
    return std::vector<std::string>();
  });
}

}  // namespace nibble
