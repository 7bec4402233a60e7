#include "search/fit.h"

#include <nibble/fit.h>

#include <algorithm>
#include <cstdlib>

#include "api/guard.h"
#include "api/threads.h"
#include "bench/machine.h"
#include "core/file.h"
#include "core/memory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kReadMemory = int64_t{256} << 20;  // more than caches hold
constexpr int kProbes = 60;                          // of a millisecond each
constexpr int64_t kLeastReserve = int64_t{256} << 20;

bool gives_averages(const std::string& palette) {
  const auto rows = search::palette_rows();
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const auto& one) { return one.name == palette; });
  return row == rows.end() ? palette.find('@') != std::string::npos : row->gives_averages();
}

std::string recipe_of(const FitRequest& request) {
  if (!request.quantize.recipe.empty()) return request.quantize.recipe;
  if (gives_averages(request.palette)) return "cmpq+gptq";
  return request.quantize.calibration.empty() ? "rtn-w4a16-g128" : "gptq-w4a16-g128";
}

Status take_budget(const FitRequest& request, search::FitOptions& options) {
  const int given = int{request.memory.has_value() || request.any_memory} + int{request.size.has_value()} +
                    int{request.bits.has_value()};
  if (given == 0) return fail(ErrorCode::usage, "there is no budget: give --fit, --size or --bits");
  if (given > 1)
    return fail(ErrorCode::usage, "several budgets are given: --fit, --size and --bits exclude each other");
  if (request.bits) {
    options.limit = search::Limit::bits;
    options.bits = *request.bits;
    return {};
  }
  options.limit = request.size ? search::Limit::files : search::Limit::memory;
  const int64_t free = request.any_memory ? available_memory() : 0;
  options.bytes = request.size ? *request.size : request.any_memory ? free - memory_reserve(free) : *request.memory;
  if (options.bytes < 1)
    return fail(ErrorCode::usage, "{} is {} bytes; expected at least 1", request.size ? "--size" : "--fit",
                options.bytes);
  return {};
}

Result<search::FitOptions> options_of(const FitRequest& request) {
  const QuantizeRequest& quantize = request.quantize;
  if (quantize.model.empty()) return fail(ErrorCode::usage, "no model folder is given");
  if (!quantize.overrides.empty())
    return fail(ErrorCode::usage, "--override gives formats that are to be chosen; put what must stay into --palette");
  search::FitOptions options;
  NIBBLE_DO(take_budget(request, options));
  options.model = quantize.model;
  NIBBLE_TRY(options.recipe, load_recipe(recipe_of(request)));
  if (!quantize.sets.empty()) {
    NIBBLE_TRY(options.recipe, customise(options.recipe, quantize.sets, {}));
  }
  fs::path output = quantize.output.lexically_normal();
  if (!output.has_filename()) output = output.parent_path();
  options.name = output.empty() ? "fitted" : output.filename().string();
  options.palette = request.palette;
  if (options.palette.empty())
    options.palette = step_of_bits(options.recipe, search::open_columns()).empty() ? "int-g128" : "channels";
  options.allow_slow = request.allow_slow;
  options.context = request.context;
  options.batch = request.batch;
  const Json& source = options.recipe.source;
  const bool open =
      options.limit == search::Limit::memory && !source.contains("cache") && !source.contains("attention");
  options.cache = request.cache.empty() && open ? "auto" : request.cache;
  options.calibration = quantize.calibration;
  options.sensitivity = quantize.sensitivity;
  options.samples = quantize.samples;
  options.length = quantize.length;
  options.seed = quantize.seed;
  options.text = request.text;
  options.text_samples = request.text_samples;
  options.text_length = request.text_window;
  options.sensitivities = request.sensitivities.empty() ? default_sensitivities() : request.sensitivities;
  options.memory_limit = quantize.memory_limit;
  options.rounds = request.rounds;
  options.predict_only = request.predict_only;
  options.progress = quantize.progress;
  return options;
}

std::string format_of(const search::Space& space, size_t variable, int candidate) {
  return space.name(space.variables[variable], candidate);
}

FitCandidate candidate_of(const search::Space& space, const search::FitPlan& plan) {
  FitCandidate out;
  out.study = plan.study;
  if (plan.study == "uniform")
    for (size_t i = 0; i < plan.choice.size() && out.format.empty(); ++i)
      if (space.variables[i].operand == search::Operand::weights)
        out.format = space.palette.name(static_cast<size_t>(plan.choice[i]));
  out.cache = plan.cache;
  out.bits = plan.bits;
  const search::FitBytes& bytes = plan.bytes;
  out.sizes = {bytes.files, bytes.linears,   bytes.resident_linears, bytes.resident_rest,
               bytes.cache, bytes.workspace, bytes.memory()};
  out.predicted_kl = plan.predicted_kl;
  if (plan.measured) {
    out.measured_kl = plan.measured->kl;
    out.measured_nll = plan.measured->nll;
  }
  out.fits = plan.fits;
  return out;
}

FitOutcome outcome_of(search::FitReport& report) {
  const search::Space& space = report.space;
  FitOutcome out;
  out.chosen = candidate_of(space, report.chosen);
  for (const search::FitPlan& plan : report.uniform) out.uniform.push_back(candidate_of(space, plan));
  for (const search::FitPlan& plan : report.curve) out.curve.push_back(candidate_of(space, plan));
  for (size_t i = 0; i < space.variables.size(); ++i) {
    const search::Variable& variable = space.variables[i];
    if (variable.operand != search::Operand::weights) continue;
    const int number = report.chosen.choice[i];
    out.operands.push_back(
        {variable.name, format_of(space, i, number),
         static_cast<double>(variable.bits[static_cast<size_t>(number)]) / static_cast<double>(variable.values)});
  }
  for (const search::FitSingle& single : report.singles)
    out.sensitivities.push_back(
        {space.variables[single.variable].name, format_of(space, single.variable, single.candidate), single.kl});
  out.limit_bytes = report.limit_bytes;
  out.left_bytes = report.left_bytes;
  out.context = report.context;
  out.recipe = std::move(report.recipe);
  out.picture = search::picture(report);
  out.log = report.log;
  out.notes = std::move(report.notes);
  out.tokens = report.tokens;
  out.measured = report.measured;
  out.reused = report.reused;
  out.seconds = report.seconds;
  return out;
}

Result<double> bandwidth_of_reading(ThreadPool& pool) {
  NIBBLE_TRY(const Isa isa, selected_isa());
  bench::Machine machine(isa, kReadMemory, pool);
  for (int i = 0; i < kProbes; ++i) machine.probe_reading();
  return machine.bandwidth();
}

}  // namespace

Result<FitOutcome> fit(const FitRequest& request) {
  return guarded([&]() -> Result<FitOutcome> {
    for (const fs::path& file : {request.plot, request.recipe_file})
      if (!file.empty()) NIBBLE_DO(check_file_target(file));
    NIBBLE_TRY(const search::FitOptions options, options_of(request));
    NIBBLE_TRY(const int threads, thread_count(request.quantize.threads));
    ThreadPool pool(threads);
    NIBBLE_TRY(search::FitReport report, search::run_fit(options, pool));
    double bandwidth = 0;
    if (!request.plot.empty()) {
      NIBBLE_TRY(bandwidth, bandwidth_of_reading(pool));
      NIBBLE_DO(write_durably(
          request.plot,
          search::fit_svg(report, fmt::format("{}: bits, speed and divergence", options.name), bandwidth)));
    }
    if (!request.recipe_file.empty()) NIBBLE_DO(write_durably(request.recipe_file, report.recipe));
    FitOutcome outcome = outcome_of(report);
    outcome.batch = request.batch;
    outcome.recipe_name = recipe_of(request);
    outcome.bandwidth = bandwidth;
    return outcome;
  });
}

Result<double> measure_fit(const FitRequest& request, const fs::path& model) {
  return guarded([&]() -> Result<double> {
    NIBBLE_TRY(const search::FitOptions options, options_of(request));
    NIBBLE_TRY(const int threads, thread_count(request.quantize.threads));
    ThreadPool pool(threads);
    NIBBLE_TRY(const search::Fidelity found, search::measure_written(options, model, pool));
    return found.kl;
  });
}

fs::path default_sensitivities() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && fs::path(cache).is_absolute()) return fs::path(cache) / "nibble" / "sensitivities";
  const char* const home = std::getenv("HOME");
  if (home != nullptr && *home != '\0') return fs::path(home) / ".cache" / "nibble" / "sensitivities";
  return {};
}

int64_t memory_reserve(int64_t free_bytes) { return std::max(free_bytes / 10, kLeastReserve); }

}  // namespace nibble
