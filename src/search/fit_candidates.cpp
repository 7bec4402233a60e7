#include "search/fit_candidates.h"

#include <algorithm>

#include "quantize/pipeline/estimate.h"
#include "quantize/quantize.h"
#include "search/recipe_file.h"

namespace nibble::search {
namespace {

constexpr int64_t kWindow = 256, kContext = 4096;

Status check_texts(FitOptions& options, const Spec& spec) {
  if (options.samples < 1) return fail(ErrorCode::usage, "samples is {}; expected at least 1", options.samples);
  if (options.text_samples < 1)
    return fail(ErrorCode::usage, "{} samples to measure on; expected at least 1", options.text_samples);
  if (options.text_length <= 0) options.text_length = std::min(kWindow, spec.max_positions);
  if (options.text_length < 2 || options.text_length > spec.max_positions)
    return fail(ErrorCode::usage, "windows of {} tokens to measure on; expected 2 to {}, the model's positions",
                options.text_length, spec.max_positions);
  QuantizeOptions quantizing;
  quantizing.length = options.length;
  NIBBLE_TRY(options.length, sample_length(quantizing, spec));
  return {};
}

Status check_budget(FitOptions& options, const Spec& spec, const Palette& palette) {
  if (options.context < 0 || options.context > spec.max_positions)
    return fail(ErrorCode::usage, "--context is {}; expected 1 to {}, the model's positions", options.context,
                spec.max_positions);
  if (options.context == 0) options.context = std::min(kContext, spec.max_positions);
  if (options.rounds < 1) return fail(ErrorCode::usage, "--rounds is {}; expected at least 1", options.rounds);
  if (options.rounds > 1 && palette.gives_averages())
    return fail(ErrorCode::usage, "--rounds is {}; with averages of bits by channel in --palette there is one round",
                options.rounds);
  if (options.batch < 1) return fail(ErrorCode::usage, "--batch is {}; expected at least 1", options.batch);
  if (options.limit == Limit::bits && !(options.bits > 0 && options.bits <= 64))
    return fail(ErrorCode::usage, "--bits is {}; expected more than 0, and 64 at most", options.bits);
  return {};
}

// With the type that the checkpoint's linears have.
Status take_palette(const FitOptions& options, Candidates& out) {
  NIBBLE_TRY(out.palette, read_palette_or_formats(options.palette, "--palette"));
  NIBBLE_TRY(const BlockWeights block, out.source->block(0));
  const NumberFormat& stored = block[Role::q].format;
  std::vector<NumberFormat>& weights = out.palette.weights;
  out.stored = static_cast<size_t>(std::find(weights.begin(), weights.end(), stored) - weights.begin());
  if (out.stored == weights.size()) weights.push_back(stored);
  if (out.palette.gives_averages()) out.palette.averages.resize(weights.size());
  return {};
}

// Of a format whose bits are open: an average, and a step that gives bits.
Status check_open(const Recipe& recipe, const Candidates& candidates, size_t k) {
  const Palette& palette = candidates.palette;
  if (!palette.weights[k].is_learned())
    return fail(ErrorCode::usage,
                "--palette: {} is no single size; --recipe slim-llm --bits X, without a fit, gives bits to groups",
                palette.name(k));
  if (!palette.gives_averages() || palette.averages[k] == 0)
    return fail(ErrorCode::usage,
                "--palette: {0} is no single size; expected averages, {0}@3, or the palette channels; --recipe "
                "cmpq --bits X gives bits to channels without a fit",
                palette.name(k));
  if (!candidates.bits_step.empty()) return {};
  return fail(ErrorCode::usage,
              "--palette: {} needs a recipe with a step that gives bits to channels, such as cmpq or cmpq+gptq; "
              "recipe {} has none",
              palette.name(k), recipe.name);
}

// Steps that learn levels, or give bits, leave other formats alone: a recipe of them and a palette without any do not
// fit together.
Status check_together(const Recipe& recipe, const Candidates& candidates) {
  const Palette& palette = candidates.palette;
  const std::string weights = recipe.source.value("weights", "");
  const auto learned = [](const NumberFormat& format) { return format.is_learned(); };
  // Linears are solved one by one, but in a model whose input is in integers tables by column agree over a site.
  const std::string input = recipe.source.value("activations", "f32");
  for (size_t k = 0; k < palette.weights.size(); ++k) {
    if (palette.weights[k].is_learned() && palette.weights[k].sharing == Sharing::column && input.starts_with("int"))
      return fail(ErrorCode::usage,
                  "recipe {} has input in {}, with which {} cannot be measured; fit with --set activations=bf16, and "
                  "quantize with the recipe that comes out and --set activations={}",
                  recipe.name, input, palette.name(k), input);
    if (palette.weights[k].bits == 0) NIBBLE_DO(check_open(recipe, candidates, k));
  }
  if (weights.starts_with("int:"))
    return fail(ErrorCode::usage,
                "recipe {} gives bits to groups of weights in {}, which a fit cannot choose among: give --bits X and "
                "no --palette, or another recipe",
                recipe.name, weights);
  if (!weights.starts_with("code") || std::any_of(palette.weights.begin(), palette.weights.end(), learned)) return {};
  return fail(ErrorCode::usage,
              "recipe {} learns the levels of weights in {}, and the palette has no such format: give --palette {}, "
              "or another recipe",
              recipe.name, weights, candidates.bits_step.empty() ? "code2:row,code3:row,code4:row" : "channels");
}

// The recipe of a format of the palette, and its plans.
Status add_recipe(const FitOptions& options, size_t k, Candidates& out) {
  NIBBLE_TRY(Recipe recipe, customise(options.recipe, {}, std::vector{".*=" + to_string(out.palette.weights[k])}));
  if (out.palette.weights[k].bits == 0) {
    NIBBLE_TRY(recipe, with_average(recipe, out.spec, out.bits_step, out.palette.averages[k]));
  }
  out.recipes.push_back(std::move(recipe));
  NIBBLE_TRY(auto plans, plan_all(out.recipes.back(), out.spec));
  out.plans.push_back(std::move(plans));
  return {};
}

// What steps read of single weights, as for quantizing.
Status open_sensitivities(const FitOptions& options, Candidates& out) {
  bool reads = false;
  for (const auto& blocks : out.plans)
    for (size_t block = 0; block < blocks.size(); ++block)
      for (const SitePlan& site : blocks[block])
        for (const LinearPlan& linear : site.linears) {
          if (!linear.reads_sensitivities()) continue;
          reads = true;
          if (options.sensitivity.empty())
            return fail(ErrorCode::usage, "the recipe {} needs the sensitivities of weights: give --sensitivity",
                        options.recipe.name);
          if (site.turns())
            return fail(ErrorCode::usage,
                        "recipe {}: sensitivities belong to weights as they are in the checkpoint; expected no step "
                        "that rotates channels",
                        options.recipe.name);
          if (!out.sensitivities) {
            NIBBLE_TRY(out.sensitivities, SensitivityFile::open(options.sensitivity, *out.source));
          }
          NIBBLE_DO(out.sensitivities->check(static_cast<int64_t>(block), linear.role));
        }
  if (reads || options.sensitivity.empty()) return {};
  return fail(ErrorCode::usage, "the recipe {} reads no sensitivities with these formats; expected no --sensitivity",
              options.recipe.name);
}

}  // namespace

const LinearPlan& Candidates::plan_of(size_t format, int64_t block, Role role) const {
  const LinearPlan* found = nullptr;
  for (const SitePlan& site : plans[format][static_cast<size_t>(block)])
    for (const LinearPlan& linear : site.linears)
      if (linear.role == role) found = &linear;
  NIBBLE_CHECK(found != nullptr);
  return *found;
}

Result<std::unique_ptr<ModelSource>> open_original(FitOptions& options) {
  NIBBLE_TRY(auto source, open_model(options.model));
  if (source->quantization() != nullptr)
    return fail(ErrorCode::unsupported, "{} is quantized already; a fit needs the original", options.model.string());
  NIBBLE_DO(check_texts(options, source->spec()));
  return source;
}

Result<Candidates> open_candidates(FitOptions& options) {
  Candidates out;
  NIBBLE_TRY(out.source, open_original(options));
  out.spec = out.source->spec();
  NIBBLE_DO(take_palette(options, out));
  NIBBLE_DO(check_budget(options, out.spec, out.palette));
  out.bits_step = step_of_bits(options.recipe, open_columns());
  NIBBLE_DO(check_together(options.recipe, out));
  out.measured = out.palette.weights.size();
  for (size_t k = 0; k < out.measured; ++k) NIBBLE_DO(add_recipe(options, k, out));
  for (const auto& blocks : out.plans)
    for (const auto& block : blocks)
      for (const SitePlan& site : block) out.observes = out.observes || site.statistics() != kNoStatistics;
  if (out.observes && options.calibration.empty())
    return fail(ErrorCode::usage, "the recipe {} needs calibration text: give --calibration", options.recipe.name);
  NIBBLE_DO(open_sensitivities(options, out));
  return out;
}

Status add_average(const FitOptions& options, double average, Candidates& candidates) {
  Palette& palette = candidates.palette;
  const auto open =
      std::find_if(palette.weights.begin(), palette.weights.end(), [](const auto& f) { return f.bits == 0; });
  const NumberFormat format = *open;
  palette.weights.push_back(format);
  palette.averages.push_back(average);
  return add_recipe(options, palette.weights.size() - 1, candidates);
}

}  // namespace nibble::search
