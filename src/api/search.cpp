#include "search/search.h"

#include <nibble/search.h>

#include <algorithm>

#include "api/guard.h"
#include "api/threads.h"
#include "core/file.h"
#include "quantize/recipe/recipe.h"
#include "search/plot.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kDefaultWindow = 256;
constexpr const char* kRounding =
    R"({"name": "round", "weights": "int8:row", "activations": "f32", "steps": [{"id": "solve", "round": {}}]})";

Result<Json> base_of(const SearchRequest& request) {
  if (!request.base.empty()) {
    NIBBLE_TRY(const Recipe recipe, load_recipe(request.base));
    return recipe.source;
  }
  NIBBLE_TRY(const Json source, parse_json(kRounding, "rounding"));
  return source;
}

fs::path log_of(const SearchRequest& request) {
  return request.log.empty() ? fs::path(request.output).replace_extension(".search.jsonl") : request.log;
}

Status check_files(const SearchRequest& request) {
  if (request.model.empty()) return fail(ErrorCode::usage, "no model folder is given");
  if (request.output.empty()) return fail(ErrorCode::usage, "no recipe file to write is given");
  NIBBLE_DO(check_file_target(request.output));
  if (fs::exists(request.output) && !request.force && !request.resume)
    return fail(ErrorCode::usage, "{} exists; --force replaces it", request.output.string());
  return request.plot.empty() ? Status() : check_file_target(request.plot);
}

Result<search::SearchOptions> options_of(const SearchRequest& request) {
  search::SearchOptions options;
  options.model = request.model;
  NIBBLE_TRY(options.palette,
             search::read_palette(request.palette, request.formats, request.activations, request.attention));
  options.budget = {request.bits, request.memory, request.all, request.length, request.activation_bits};
  options.name = request.output.stem().string();
  NIBBLE_TRY(options.recipe, base_of(request));
  options.text = request.text;
  options.samples = request.samples;
  options.length = request.window;
  if (request.window == 0) {
    NIBBLE_TRY(const auto source, open_model(request.model));
    options.length = std::min(kDefaultWindow, source->spec().max_positions);
  }
  options.seed = request.seed;
  options.engine = request.engine == SearchEngine::tpe ? search::Engine::tpe : search::Engine::knapsack;
  options.trials = request.trials;
  options.alpha = request.alpha;
  options.likelihood = request.likelihood;
  options.rounds = request.rounds;
  options.front = !request.plot.empty();
  options.log = log_of(request);
  options.resume = request.resume;
  options.force = request.force;
  options.progress = request.progress;
  return options;
}

std::string format_of(const search::Space& space, const search::Variable& variable, int candidate) {
  return to_string(space.candidates(variable)[static_cast<size_t>(candidate)]);
}

// Of a uniform model: its weights, activations and attention.
std::string label_of(const search::Space& space, const search::Point& point) {
  if (point.study != "uniform") return "";
  std::string formats[3];  // by operand
  for (size_t i = 0; i < point.choice.size(); ++i)
    formats[static_cast<size_t>(space.variables[i].operand)] = format_of(space, space.variables[i], point.choice[i]);
  return formats[0] + ", " + formats[1] + (formats[2].empty() ? "" : ", " + formats[2]);
}

SearchPoint point_of(const search::Space& space, const search::Point& point) {
  return {point.study,
          label_of(space, point),
          point.weight_bits,
          point.activation_bits,
          point.budget_bits,
          point.measured.kl,
          point.measured.nll,
          point.fits,
          false};
}

SearchOutcome outcome_of(const search::SearchReport& report) {
  const search::Space& space = report.space;
  SearchOutcome out;
  out.chosen = point_of(space, report.chosen);
  for (const search::Point& point : report.points) out.points.push_back(point_of(space, point));
  for (size_t i : search::pareto_front(report.points)) {
    out.points[i].front = true;
    if (report.points[i].choice == report.chosen.choice) out.chosen.front = true;
  }
  for (size_t i = 0; i < space.variables.size(); ++i) {
    const search::Variable& variable = space.variables[i];
    const int number = report.chosen.choice[i];
    out.operands.push_back(
        {variable.name, format_of(space, variable, number),
         static_cast<double>(variable.bits[static_cast<size_t>(number)]) / static_cast<double>(variable.values)});
  }
  for (const search::Single& single : report.singles) {
    const search::Variable& variable = space.variables[single.variable];
    out.sensitivities.push_back({variable.name, format_of(space, variable, single.candidate), single.loss});
  }
  if (report.predicted_kl >= 0) out.predicted_kl = report.predicted_kl;
  out.reference_nll = report.reference_nll;
  out.tokens = report.tokens;
  out.measured = report.measured;
  out.reused = report.reused;
  out.seconds = report.seconds;
  out.recipe = report.recipe;
  return out;
}

}  // namespace

Result<SearchOutcome> search_recipe(const SearchRequest& request) {
  return guarded([&]() -> Result<SearchOutcome> {
    NIBBLE_DO(check_files(request));
    NIBBLE_TRY(const search::SearchOptions options, options_of(request));
    NIBBLE_TRY(const int threads, thread_count(request.threads));
    ThreadPool pool(threads);
    NIBBLE_TRY(const search::SearchReport report, search::run_search(options, pool));
    NIBBLE_DO(write_durably(request.output, report.recipe));
    if (!request.plot.empty())
      NIBBLE_DO(write_durably(request.plot,
                              search::svg(report, fmt::format("Search of {}", request.output.stem().string()))));
    SearchOutcome outcome = outcome_of(report);
    outcome.log = options.log;
    return outcome;
  });
}

std::vector<PaletteInfo> palettes() {
  std::vector<PaletteInfo> out;
  for (const search::PaletteRow& row : search::palette_rows())
    out.push_back({std::string(row.name), std::string(row.summary), std::string(row.weights),
                   std::string(row.activations), std::string(row.attention), row.gives_averages()});
  return out;
}

}  // namespace nibble
