#include "fit.h"

#include <nibble/search.h>

#include <cmath>
#include <filesystem>

#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

Json sizes_json(const FitSizes& sizes) {
  return {{"file_bytes", sizes.files},
          {"linear_bytes", sizes.linears},
          {"packed_linear_bytes", sizes.packed_linears},
          {"packed_rest_bytes", sizes.packed_rest},
          {"cache_bytes", sizes.cache},
          {"workspace_bytes", sizes.workspace},
          {"memory_bytes", sizes.memory}};
}

Json optional_json(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

Json candidate_json(const FitCandidate& candidate) {
  Json out = {{"study", candidate.study},
              {"bits", candidate.bits},
              {"cache", candidate.cache},
              {"sizes", sizes_json(candidate.sizes)},
              {"predicted_kl", candidate.predicted_kl},
              {"measured_kl", optional_json(candidate.measured_kl)},
              {"measured_nll", optional_json(candidate.measured_nll)},
              {"fits", candidate.fits}};
  if (!candidate.format.empty()) out["format"] = candidate.format;
  return out;
}

Json outcome_json(const FitOutcome& outcome, const std::string& recipe_file) {
  Json uniform = Json::array(), curve = Json::array(), operands = Json::array(), sensitivities = Json::array();
  for (const FitCandidate& one : outcome.uniform) uniform.push_back(candidate_json(one));
  for (const FitCandidate& one : outcome.curve) curve.push_back(candidate_json(one));
  for (const SearchedOperand& one : outcome.operands)
    operands.push_back({{"name", one.name}, {"format", one.format}, {"bits", one.bits}});
  for (const Sensitivity& one : outcome.sensitivities)
    sensitivities.push_back({{"name", one.name}, {"format", one.format}, {"kl", one.kl}});
  return {{"base", outcome.recipe_name},
          {"recipe_file", recipe_file.empty() ? Json() : Json(recipe_file)},
          {"chosen", candidate_json(outcome.chosen)},
          {"limit_bytes", outcome.limit_bytes},
          {"left_bytes", outcome.left_bytes},
          {"context", outcome.context},
          {"batch", outcome.batch},
          {"sensitivities_file", outcome.log.empty() ? Json() : Json(outcome.log.string())},
          {"notes", outcome.notes},
          {"tokens", outcome.tokens},
          {"measured", outcome.measured},
          {"reused", outcome.reused},
          {"bandwidth", outcome.bandwidth > 0 ? Json(outcome.bandwidth) : Json()},
          {"seconds", outcome.seconds},
          {"uniform", std::move(uniform)},
          {"curve", std::move(curve)},
          {"operands", std::move(operands)},
          {"sensitivities", std::move(sensitivities)}};
}

std::string kl_text(const FitCandidate& candidate) {
  std::string out = fmt::format("predicted KL {:.5f}", candidate.predicted_kl);
  if (candidate.measured_kl) out += fmt::format(", as a whole {:.5f}", *candidate.measured_kl);
  return out;
}

std::string uniform_line(const FitCandidate& candidate) {
  return fmt::format("  {:<18} {:>7.3f} bits {:>10} {:>10} {}  {}\n", candidate.format, candidate.bits,
                     human_bytes(candidate.sizes.files), human_bytes(candidate.sizes.memory),
                     candidate.fits ? "fits" : "    ", kl_text(candidate));
}

std::string plan_text(const FitOutcome& outcome) {
  const FitCandidate& chosen = outcome.chosen;
  const FitSizes& sizes = chosen.sizes;
  std::string out = outcome.picture;
  out += fmt::format("one format everywhere:   bits      files     memory\n");
  for (const FitCandidate& one : outcome.uniform) out += uniform_line(one);
  out += fmt::format("chosen{}: {:.3f} bits, {}\n", chosen.study == "uniform" ? ", one format everywhere" : "",
                     chosen.bits, kl_text(chosen));
  out += fmt::format("weight files: {}, {} of which are the blocks' linears\n", human_bytes(sizes.files),
                     human_bytes(sizes.linears));
  out +=
      fmt::format("memory: {} = linears {} + other weights {} + KV cache {} ({} x {} tokens in {}) + workspace {}\n",
                  human_bytes(sizes.memory), human_bytes(sizes.packed_linears), human_bytes(sizes.packed_rest),
                  human_bytes(sizes.cache), outcome.batch, outcome.context, chosen.cache, human_bytes(sizes.workspace));
  if (outcome.limit_bytes > 0)
    out += fmt::format("of the budget of {}, {} are left\n", human_bytes(outcome.limit_bytes),
                       human_bytes(outcome.left_bytes));
  out += fmt::format("{} runs on {} tokens, {} results reused, in {}", outcome.measured, outcome.tokens, outcome.reused,
                     human_seconds(outcome.seconds));
  if (!outcome.log.empty()) out += fmt::format("; sensitivities: {}", outcome.log.string());
  return out + "\n";
}

Status read_budget(const FitSettings& settings, FitRequest& request) {
  request.any_memory = settings.memory == "auto";
  if (!settings.memory.empty() && !request.any_memory) {
    const auto bytes = parse_size(settings.memory);
    if (!bytes) return error_of(bytes);
    request.memory = *bytes;
  }
  if (!settings.size.empty()) {
    const auto bytes = parse_size(settings.size);
    if (!bytes) return error_of(bytes);
    request.size = *bytes;
  }
  request.bits = settings.bits;
  return {};
}

// OUT without a slash at its end, and .recipe.json.
std::string default_recipe_file(const QuantizeRequest& quantize) {
  std::filesystem::path folder = quantize.output.lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  return folder.string() + ".recipe.json";
}

Status expect_free(const std::string& file, const QuantizeRequest& quantize) {
  std::error_code error;
  if (quantize.force || quantize.resume) return {};
  for (const std::string& path : {file, quantize.output.string()})
    if (std::filesystem::exists(path, error))
      return failure(ErrorCode::usage, fmt::format("{} exists; --force replaces it", path));
  return {};
}

std::string palette_names() {
  std::string names;
  for (const PaletteInfo& palette : palettes()) names += (names.empty() ? "" : ", ") + palette.name;
  return names;
}

}  // namespace

bool FitSettings::asked() const { return !memory.empty() || !size.empty() || bits; }

bool FitSettings::asks_for_own_bits() const {
  return memory.empty() && size.empty() && bits && request.palette.empty();
}

Status FitSettings::check() const {
  for (const CLI::Option* option : others)
    if (!asked() && option->count() > 0)
      return failure(ErrorCode::usage, fmt::format("{} is part of a fit, which needs a budget: give --fit, --size or "
                                                   "--bits",
                                                   option->get_name()));
  return {};
}

void add_fit_options(CLI::App& command, FitSettings& settings) {
  FitRequest& request = settings.request;
  constexpr const char* kGroup = "The best model that fits";
  const auto budget = [&](const char* name, auto& value, const std::string& text, const char* type) {
    return command.add_option(name, value, text)->type_name(type)->group(kGroup);
  };
  const auto add = [&](const char* name, auto& value, const std::string& text, const char* type) {
    CLI::Option* const option = budget(name, value, text, type);
    settings.others.push_back(option);
    return option;
  };
  budget("--fit", settings.memory, "Budget: memory for weights, KV cache and workspace, e.g. 3.5G; auto: what is free",
         "SIZE|auto")
      ->check(kNotEmpty);
  budget("--size", settings.size, "Budget: bytes of the weight files", "SIZE")->check(kNotEmpty);
  budget("--bits", settings.bits,
         "Budget: average stored bits of a weight of the blocks' linears; with a recipe that gives bits itself "
         "(cmpq, slim-llm) and no --palette its own",
         "X")
      ->check(kNotEmpty);
  add("--context", request.context, "--fit: tokens of a sequence; 0: min(4096, the model's positions)", "N")
      ->capture_default_str();
  add("--batch", request.batch, "--fit: sequences at a time", "N")->capture_default_str();
  add("--palette", request.palette,
      "Formats of weights to choose from: a list with commas, in which code:col@X are channels of X bits on average, "
      "or "
      "a palette: " +
          palette_names() + " (default: int-g128; for --fit and --size with a recipe such as cmpq channels)",
      "NAME|F,F,...");
  add("--cache", request.cache,
      "Format of cached keys and values, or auto to have it chosen (default: the recipe's; --fit without one: auto)",
      "FORMAT|auto");
  add("--sensitivities", request.sensitivities,
      "Folder of what was measured (default: nibble/sensitivities in $XDG_CACHE_HOME or ~/.cache)", "DIR");
  add("--fit-text", request.text, "Text files to measure on (default: other places of the calibration text)", "TEXT");
  add("--fit-samples", request.text_samples, "Samples of it", "N")->capture_default_str();
  add("--fit-window", request.text_window, "Tokens per sample of it; 0: min(256, the model's positions)", "W")
      ->capture_default_str();
  add("--rounds", request.rounds, "Rounds after the first measure around the model found before", "N")
      ->capture_default_str();
  settings.others.push_back(
      command.add_flag("--allow-slow", request.allow_slow, "Also formats that only the reference multiplies here")
          ->group(kGroup));
  settings.others.push_back(
      command.add_flag("--measure", settings.measure, "Measure the KL of the model that was written, too")
          ->group(kGroup));
  add("--save-recipe", settings.recipe_file, "Where the recipe goes (default: OUT.recipe.json)", "FILE");
  add("--plot", request.plot, "Write bits, and tokens per second as a model, against predicted KL as SVG", "FILE");
}

Result<FittedRecipe> fit_recipe(const FitSettings& settings, const QuantizeRequest& quantize, bool dry_run,
                                const Session& session) {
  FittedRecipe out;
  out.request = settings.request;
  if (const Status read = read_budget(settings, out.request); !read) return error_of(read);
  out.request.quantize = quantize;
  out.request.predict_only = dry_run;
  if (!dry_run) {
    out.recipe_file = settings.recipe_file.empty() ? default_recipe_file(quantize) : settings.recipe_file;
    if (const Status free = expect_free(out.recipe_file, quantize); !free) return error_of(free);
    out.request.recipe_file = out.recipe_file;
  }
  {
    ProgressLine progress(session, 0.02);
    out.request.quantize.progress = progress.callback();
    auto outcome = fit(out.request);
    if (!outcome) return error_of(outcome);
    out.outcome = *std::move(outcome);
  }
  out.request.quantize.progress = {};
  for (const std::string& note : out.outcome.notes) session.note(note);
  out.text = plan_text(out.outcome);
  out.json = outcome_json(out.outcome, out.recipe_file);
  return out;
}

Result<CheckedFit> check_fit(const FittedRecipe& fitted, const FitSettings& settings, int64_t file_bytes,
                             const QuantizeRequest& quantize) {
  const auto predicted = static_cast<double>(fitted.outcome.chosen.sizes.files);
  const double off = (static_cast<double>(file_bytes) / predicted - 1) * 100;
  CheckedFit out;
  out.json = fitted.json;
  out.json["written_file_bytes"] = file_bytes;
  out.text = fmt::format("{}: written; weight files {:+.2f} % of what was predicted\n", fitted.recipe_file, off);
  if (!settings.measure) return out;
  const auto kl = measure_fit(fitted.request, quantize.output);
  if (!kl) return error_of(kl);
  out.json["written_kl"] = *kl;
  out.text +=
      fmt::format("KL of the written model: {:.5f}, predicted {:.5f}\n", *kl, fitted.outcome.chosen.predicted_kl);
  return out;
}

}  // namespace nibble::cli
