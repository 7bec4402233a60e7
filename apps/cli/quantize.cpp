// nibble quantize: a Hugging Face folder becomes a quantized one.
#include <nibble/quantize.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "commands.h"
#include "fit.h"
#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nThe estimate is printed first; --dry-run stops after it. A run that was interrupted left OUT.partial behind:\n"
    "the same command with --resume goes on where it stopped. The result does not depend on the number of threads,\n"
    "the memory limit, or interruptions.\n"
    "\nExamples:\n"
    "  nibble quantize llama -o llama-quik --recipe quik-4b --calibration c4.txt\n"
    "  nibble quantize llama -o llama-w4 --recipe rtn-w4a16-g128                # needs no calibration text\n"
    "  nibble quantize llama -o llama-fp4 --recipe mxfp4+gptq+hadamard --calibration c4.txt\n"
    "  nibble quantize llama -o out --recipe quik-4b --calibration a.txt b.txt --samples 64 --length 1024 \\\n"
    "         --set solve.damp=0.05 --override 'blocks\\.0\\..*=f16' --memory-limit 8G\n"
    "  nibble quantize llama -o out --recipe my-recipe.json --calibration c4.txt --dry-run\n"
    "  nibble quantize llama -o out --fit 3.5G --context 8192 --calibration c4.txt     # the best that fits\n"
    "  nibble quantize llama -o out --bits 3.25 --calibration c4.txt --dry-run\n"
    "  nibble quantize llama -o out --recipe cmpq --bits 2.8 --calibration c4.txt      # bits by channel\n"
    "  nibble quantize llama -o out --palette channels --bits 2.8 --calibration c4.txt # ... by site, too\n";

struct Options {
  QuantizeRequest request;
  FitSettings fit;
  std::string memory_limit;
  bool dry_run = false;
};

Json plan_json(const QuantizePlan& plan) {
  return {{"peak_memory_bytes", plan.peak_memory_bytes},
          {"disk_bytes", plan.disk_bytes},
          {"output_bytes", plan.output_bytes},
          {"bits_per_weight", plan.bits_per_weight},
          {"plan", plan.lines}};
}

std::string plan_text(const QuantizePlan& plan) {
  std::string out;
  for (const std::string& line : plan.lines) out += fmt::format("  {}\n", line);
  return fmt::format("{}estimate: {} of memory at most, {} of disk while running, output {} ({:.3f} bits per weight)",
                     out, human_bytes(plan.peak_memory_bytes), human_bytes(plan.disk_bytes),
                     human_bytes(plan.output_bytes), plan.bits_per_weight);
}

// Errors that were not measured are null.
Json measured(double error) { return error < 0 ? Json() : Json(error); }
Json measured(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

Json linear_json(const LinearOutcome& linear) {
  return {{"name", linear.name},
          {"weights", linear.weights},
          {"activations", linear.activations},
          {"rows", linear.rows},
          {"columns", linear.columns},
          {"kept_columns", linear.kept_columns},
          {"stored_bytes", linear.stored_bytes},
          {"weight_error", linear.weight_error},
          {"output_error", measured(linear.output_error)},
          {"rounding_output_error", measured(linear.rounding_output_error)},
          {"validation_error", measured(linear.validation_error)},
          {"rounding_validation_error", measured(linear.rounding_validation_error)},
          {"damping", measured(linear.damping)},
          {"run_error", measured(linear.run_error)},
          {"run_cosine", measured(linear.run_cosine)},
          {"clip_mean", measured(linear.clip_mean)},
          {"clip_least", measured(linear.clip_least)}};
}

Json outcome_json(const QuantizeRequest& request, const QuantizePlan& plan, const QuantizeOutcome& outcome) {
  Json linears = Json::array();
  for (const LinearOutcome& linear : outcome.linears) linears.push_back(linear_json(linear));
  return {{"output", request.output.string()},
          {"recipe", request.recipe},
          {"bits_per_weight", outcome.bits_per_weight},
          {"quantized_bits_per_weight", outcome.quantized_bits_per_weight},
          {"code_bits", measured(outcome.code_bits)},
          {"file_bytes", outcome.file_bytes},
          {"peak_memory_bytes", outcome.peak_memory_bytes},
          {"seconds", outcome.seconds},
          {"resumed", outcome.resumed},
          {"estimate", plan_json(plan)},
          {"linears", linears}};
}

// The layers whose outputs suffer most, in a line of their own; empty when outputs were not measured.
std::string worst_layers(const QuantizeOutcome& outcome) {
  constexpr size_t kNamed = 3;
  std::vector<const LinearOutcome*> worst;
  for (const LinearOutcome& linear : outcome.linears)
    if (linear.run_error) worst.push_back(&linear);
  std::stable_sort(worst.begin(), worst.end(), [](auto* a, auto* b) { return *a->run_error > *b->run_error; });
  worst.resize(std::min(kNamed, worst.size()));
  std::string text;
  for (const LinearOutcome* linear : worst)
    text += fmt::format("{}{} {:.2g} ({}, cosine {:.4f})", text.empty() ? "" : ", ", linear->name, *linear->run_error,
                        linear->weights, linear->run_cosine.value_or(0));
  return text.empty() ? "" : fmt::format("largest errors of an output, as parts of its energy: {}\n", text);
}

std::string outcome_text(const QuantizeRequest& request, const QuantizeOutcome& outcome) {
  const std::string codes = outcome.code_bits ? fmt::format(", {:.3f} of them codes", *outcome.code_bits) : "";
  return fmt::format(
      "{}: {:.3f} bits per weight ({:.3f} in the quantized layers{}), {} of weights\n{}took {}, at most {} of memory\n",
      request.output.string(), outcome.bits_per_weight, outcome.quantized_bits_per_weight, codes,
      human_bytes(outcome.file_bytes), worst_layers(outcome), human_seconds(outcome.seconds),
      human_bytes(outcome.peak_memory_bytes));
}

Result<QuantizeOutcome> quantize_with_progress(const Options& options, const Session& session) {
  ProgressLine progress(session);
  QuantizeRequest request = options.request;
  request.progress = progress.callback();
  return quantize(request);
}

// What a fit takes, for somebody who gave one of its options beside a recipe that has an average of its own.
Result<const char*> fit_instead_of(const std::string& recipe) {
  const auto text = recipe_text(recipe);
  if (!text) return error_of(text);
  if (Json::parse(*text).value("weights", "").starts_with("code:col"))
    return "a fit of bits by channel is asked for with --recipe cmpq --palette channels";
  return "a fit takes formats with fixed bits, as with --recipe gptq-w4a16-g128 --palette int-g128";
}

// --bits for a recipe that gives bits to channels: its own average, and no fit. False for all else.
Result<bool> set_bits(Options& options) {
  if (!options.fit.asks_for_own_bits() || options.request.recipe.empty()) return false;
  const double bits = *options.fit.bits;
  const auto settings = bits_settings(options.request.recipe, bits);
  if (!settings) return error_of(settings);
  if (settings->empty()) return false;
  const std::string& recipe = options.request.recipe;
  if (!(bits >= 1 && bits <= 16))
    return failure(ErrorCode::usage, fmt::format("--bits is {}; recipe {} takes 1 to 16", bits, recipe));
  for (const CLI::Option* option : options.fit.others)
    if (option->count() > 0) {
      const auto instead = fit_instead_of(recipe);
      if (!instead) return error_of(instead);
      return failure(ErrorCode::usage, fmt::format("{} is part of a fit, but --bits is the average of recipe {} "
                                                   "itself; {}",
                                                   option->get_name(), recipe, *instead));
    }
  for (const std::string& set : options.request.sets)
    for (const std::string& setting : *settings)
      if (set.substr(0, set.find('=')) == setting.substr(0, setting.find('=')))
        return failure(ErrorCode::usage, fmt::format("--bits and --set {} contradict each other", set));
  options.request.sets.insert(options.request.sets.end(), settings->begin(), settings->end());
  return true;
}

Status run(Options& options, const Session& session) {
  if (!options.memory_limit.empty()) {
    const auto limit = parse_size(options.memory_limit);
    if (!limit) return error_of(limit);
    options.request.memory_limit = *limit;
  }
  if (const Status checked = options.fit.check(); !checked) return error_of(checked);
  std::optional<FittedRecipe> fitted;
  auto own = set_bits(options);
  if (!own) return error_of(own);
  if (options.fit.asked() && !*own) {
    auto found = fit_recipe(options.fit, options.request, options.dry_run, session);
    if (!found) return error_of(found);
    fitted = *std::move(found);
    if (options.dry_run) return session.json ? print_json({{"fit", fitted->json}}) : print(fitted->text);
    session.note(fitted->text);
    options.request.recipe = fitted->recipe_file;
    options.request.sets.clear();  // they are in the recipe
  }
  if (options.request.recipe.empty())
    return failure(ErrorCode::usage, "--recipe is required, or a budget: --fit, --size or --bits");
  const auto plan = estimate(options.request);
  if (!plan) return error_of(plan);
  if (options.dry_run) return session.json ? print_json(plan_json(*plan)) : print(plan_text(*plan) + "\n");
  session.note(plan_text(*plan));
  const auto outcome = quantize_with_progress(options, session);
  if (!outcome) return error_of(outcome);
  if (outcome->discarded)
    session.note(fmt::format("{}.partial of an interrupted run was thrown away; --resume would have gone on with it",
                             options.request.output.string()));
  Json json = outcome_json(options.request, *plan, *outcome);
  std::string text = outcome_text(options.request, *outcome);
  if (fitted) {
    const auto checked = check_fit(*fitted, options.fit, outcome->file_bytes, options.request);
    if (!checked) return error_of(checked);
    json["fit"] = checked->json;
    text += checked->text;
  }
  return session.json ? print_json(json) : print(text);
}

void add_recipe_options(CLI::App& command, QuantizeRequest& request) {
  command
      .add_option("-r,--recipe", request.recipe,
                  "Name of a recipe (see `nibble recipe list`) or a file, +gptq, +hadamard or +gather added to it; "
                  "required without a budget")
      ->type_name("NAME|FILE[+MODIFIER]");
  command.add_option("--set", request.sets, "Change a parameter of a step of the recipe, e.g. solve.damp=0.05")
      ->allow_extra_args(false)
      ->type_name("STEP.KEY=VALUE");
  command
      .add_option("--override", request.overrides,
                  "Formats of the linears whose whole name matches, e.g. 'blocks\\.0\\.down=int8:row'")
      ->allow_extra_args(false)
      ->type_name("REGEX=FORMAT");
}

void add_text_options(CLI::App& command, QuantizeRequest& request) {
  command.add_option("-c,--calibration", request.calibration, "Text files that the statistics are taken from")
      ->type_name("TEXT");
  command.add_option("--validation", request.validation, "Text files on which output errors are also measured")
      ->type_name("TEXT");
  command
      .add_option("--sensitivity", request.sensitivity,
                  "Sensitivities of weights, for recipes that read them (tools/fisher.py)")
      ->type_name("FILE");
  command.add_option("--samples", request.samples, "Calibration samples")->type_name("N")->capture_default_str();
  command.add_option("--length", request.length, "Tokens per sample; 0: min(2048, the model's positions)")
      ->type_name("L")
      ->capture_default_str();
  add_seed_option(command, request.seed, "Seed of where the samples start");
}

void add_run_options(CLI::App& command, Options& options) {
  add_threads_option(command, options.request.threads);
  command.add_option("--memory-limit", options.memory_limit, "Peak resident memory, e.g. 3G or 512M (default: none)")
      ->check(kNotEmpty)
      ->type_name("SIZE");
  command.add_flag("--dry-run", options.dry_run, "Print the estimate and the plan, and stop");
  command.add_flag("--resume", options.request.resume, "Go on from OUT.partial of an interrupted run");
  command.add_flag("--force", options.request.force, "Replace OUT when it exists");
}

}  // namespace

void add_quantize(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("quantize", "Turn a Hugging Face folder into a quantized one");
  auto options = std::make_shared<Options>();
  command->add_option("model,-m,--model", options->request.model, "Hugging Face folder")
      ->required()
      ->type_name("MODEL");
  command->add_option("-o,--output", options->request.output, "Folder to create")->required()->type_name("OUT");
  add_recipe_options(*command, options->request);
  add_text_options(*command, options->request);
  add_run_options(*command, *options);
  add_fit_options(*command, options->fit);
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
