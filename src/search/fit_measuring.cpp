#include "search/fit_measuring.h"

#include <algorithm>
#include <set>

#include "core/file.h"
#include "core/hash.h"
#include "quantize/pipeline/estimate.h"
#include "quantize/solve/cholesky.h"
#include "quantize/solve/gptq.h"
#include "quantize/triangle.h"
#include "runtime/packed_cache.h"
#include "search/footprint.h"
#include "search/layers.h"
#include "search/observer.h"
#include "tokenizer/tokenizer.h"

namespace nibble::search {
namespace {

namespace fs = std::filesystem;

// Of the measurement: numbers of another version do not mean the same.
constexpr int kMeasurement = 3;
constexpr size_t kIdLength = 16;
constexpr int64_t kProgram = int64_t{40} << 20;  // program, tokenizer and small things
constexpr int64_t kObservedTokens = 16384;       // of the calibration text that are in memory while formats are tried

// Other places of the calibration text where no text is given; nothing when the model is to write it.
Result<std::optional<Samples>> drawn_text(const FitOptions& options, const Tokenizer& tokenizer) {
  const bool own = !options.text.empty();
  const auto& files = own ? options.text : options.calibration;
  if (files.empty()) return std::nullopt;
  NIBBLE_TRY(Samples samples, draw_samples(files, tokenizer, options.text_samples, options.text_length,
                                           options.seed + (own ? 0 : 1), "measuring"));
  return samples;
}

// What the numbers depend on. The texts are drawn here.
Result<Json> header_of(const FitOptions& options, const Candidates& candidates, FitTexts& texts) {
  const auto folder = fs::absolute(options.model).lexically_normal();
  Json out = Json::object();
  out["nibble_search"] = 1;
  out["measurement"] = kMeasurement;
  out["model"] = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  NIBBLE_TRY(const Json key, packed_cache_key(options.model, Isa::portable, ""));
  out["files"] = key["files"];
  Json recipe = options.recipe.source;
  for (const char* unused : {"name", "summary", "paper", "weights", "cache", "head", "attention"}) recipe.erase(unused);
  out["recipe"] = std::move(recipe);
  NIBBLE_TRY(const Tokenizer tokenizer, Tokenizer::load(options.model));
  if (candidates.observes) {
    const int64_t count = std::clamp<int64_t>(kObservedTokens / options.length, 1, options.samples);
    NIBBLE_TRY(texts.calibration,
               draw_samples(options.calibration, tokenizer, count, options.length, options.seed, "calibration"));
    out["calibration"] = {{"samples", count}, {"length", options.length}, {"tokens", texts.calibration->hash}};
  }
  if (candidates.sensitivities) {
    NIBBLE_TRY(const std::string hash, sha256_file(options.sensitivity));
    out["sensitivity"] = hash;
  }
  NIBBLE_TRY(texts.measured, drawn_text(options, tokenizer));
  out["text"] = {{"samples", options.text_samples}, {"length", options.text_length}};
  if (texts.measured) out["text"]["tokens"] = texts.measured->hash;
  if (!texts.measured) out["text"]["seed"] = options.seed;
  return out;
}

// Earlier measurements that look as if they were of this model, and why they are not used.
std::vector<std::string> notes_on_others(const fs::path& folder, const Json& ours, const std::string& beginning) {
  std::error_code error;
  std::set<fs::path> others;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error))
    if (entry.path().filename().string().starts_with(beginning)) others.insert(entry.path());
  std::vector<std::string> out;
  for (const fs::path& path : others) {
    const auto text = read_text(path);
    if (!text) continue;
    const auto first = parse_json(std::string_view(*text).substr(0, text->find('\n')), path.string());
    if (!first || !first->is_object()) continue;
    for (const auto& item : ours.items()) {
      const Json* theirs = find_path(*first, {item.key()});
      if (theirs != nullptr && *theirs == item.value()) continue;
      out.push_back(fmt::format("the sensitivities in {} are not used: they were measured with another \"{}\"",
                                path.string(), item.key()));
      break;
    }
  }
  return out;
}

// The log's name for a cache.
std::string log_name(const CacheOption& cache) {
  Json blocks = Json::array();
  for (const AttentionFormats& one : cache.attention)
    if (blocks.empty() || blocks.back() != to_json(one)) blocks.push_back(to_json(one));
  return dump_json(blocks);
}

}  // namespace

Result<Samples> text_of(const FitOptions& options, const Model& model, ThreadPool& pool) {
  NIBBLE_TRY(const Tokenizer tokenizer, Tokenizer::load(options.model));
  NIBBLE_TRY(std::optional<Samples> text, drawn_text(options, tokenizer));
  if (text) return *std::move(text);
  return write_samples(model, options.text_samples, options.text_length, options.seed, pool);
}

// What measures.
struct FitMeasuring::Engine {
  Model model;
  Samples text;
  std::optional<Observer> observer;
  std::optional<Layers> layers;
  std::optional<Yardstick> yardstick;
};

FitMeasuring::FitMeasuring(const FitOptions& options, const Candidates& candidates, const FitBudget& budget,
                           FitReport& report, FitTexts texts, Log log, ThreadPool& pool)
    : options_(&options),
      candidates_(&candidates),
      budget_(&budget),
      report_(&report),
      pool_(&pool),
      texts_(std::move(texts)),
      log_(std::move(log)) {}
FitMeasuring::FitMeasuring(FitMeasuring&&) noexcept = default;
FitMeasuring::~FitMeasuring() = default;

Result<FitMeasuring> FitMeasuring::open(const FitOptions& options, const Candidates& candidates,
                                        const FitBudget& budget, FitReport& report, ThreadPool& pool) {
  FitTexts texts;
  NIBBLE_TRY(const Json first, header_of(options, candidates, texts));
  if (!options.sensitivities.empty()) {
    std::error_code error;
    fs::create_directories(options.sensitivities, error);
    if (error)
      return fail(ErrorCode::io, "cannot make the folder {}: {}", options.sensitivities.string(), error.message());
    const std::string model = first["model"].get<std::string>();
    report.log =
        options.sensitivities / fmt::format("{}-{}.jsonl", model, sha256(dump_json(first)).substr(0, kIdLength));
    if (!fs::exists(report.log, error)) report.notes = notes_on_others(options.sensitivities, first, model + "-");
  }
  NIBBLE_TRY(Log log, Log::open(report.log, first, true, false));
  return FitMeasuring(options, candidates, budget, report, std::move(texts), std::move(log), pool);
}

// Memory while formats are measured, about: the float model, its predictions and the states of both texts, a block as
// read and its statistics, and one linear being solved.
int64_t FitMeasuring::bytes() const {
  const Spec& spec = candidates_->spec;
  int64_t model = budget_->beside().resident, statistics = 0, solving = 0;
  for (int64_t block = 0; block < spec.layers; ++block)
    for (Role role : kAllRoles)
      model += (block == 0 ? 2 : 1) * budget_->priced(candidates_->stored, block, role).resident;
  for (const auto& blocks : candidates_->plans)
    for (const SitePlan& site : blocks[0]) {
      const bool gram = (site.statistics() & kGram) != 0;
      for (const LinearPlan& linear : site.linears) {
        const Shape shape = shape_of(spec, linear.role);
        int64_t bytes = 8 * shape.rows * shape.columns;  // as floats, solved and packed
        if (gram)
          bytes += Triangle::bytes(site.inputs) + std::max(factor_scratch_bytes(site.inputs, pool_->size()),
                                                           gptq_scratch_bytes(shape.rows, site.inputs, pool_->size()));
        solving = std::max(solving, bytes);
      }
    }
  for (const SitePlan& site : candidates_->plans[0][0])
    if (site.statistics() & kGram) statistics += Triangle::bytes(site.inputs);
  const int64_t tokens = options_->text_samples * options_->text_length;
  const int64_t observed = texts_.calibration ? texts_.calibration->count * texts_.calibration->length : 0;
  return model + statistics + solving + 4 * tokens * (spec.vocabulary + 3 * spec.hidden) + 4 * observed * spec.hidden +
         workspace_bytes(spec, options_->text_length, 1, pool_->size()) + kProgram;
}

Status FitMeasuring::start() {
  if (engine_) return {};
  if (options_->memory_limit > 0 && bytes() > options_->memory_limit)
    return fail(
        ErrorCode::usage,
        "the memory limit of {} bytes is too small to measure formats of this model: about {} bytes are needed; "
        "the float model stays in memory, and --fit-samples makes the rest smaller",
        options_->memory_limit, bytes());
  const ModelSource& source = *candidates_->source;
  NIBBLE_TRY(Model model, Model::load(source, {}, *pool_));
  auto engine = std::make_unique<Engine>(Engine{std::move(model), {}, {}, {}, {}});
  if (texts_.measured) {
    engine->text = *texts_.measured;
  } else {
    NIBBLE_TRY(engine->text,
               write_samples(engine->model, options_->text_samples, options_->text_length, options_->seed, *pool_));
  }
  if (texts_.calibration) engine->observer.emplace(engine->model, *texts_.calibration);
  NIBBLE_TRY(Layers layers, Layers::make(source, engine->model, candidates_->palette, candidates_->recipes,
                                         engine->observer ? &*engine->observer : nullptr,
                                         candidates_->sensitivities ? &*candidates_->sensitivities : nullptr));
  if (options_->memory_limit > 0) layers.keep_at_most(options_->memory_limit - bytes());
  engine->layers.emplace(std::move(layers));
  NIBBLE_TRY(Yardstick yardstick, Yardstick::make(engine->model, engine->text, *pool_));
  engine->yardstick.emplace(std::move(yardstick));
  engine_ = std::move(engine);
  return {};
}

void FitMeasuring::add_last() {
  if (engine_) engine_->layers->add(candidates_->recipes.back());
}

// Of a space that the log has entered.
Result<Measurements> FitMeasuring::measurements(const Space& space) {
  NIBBLE_DO(start());
  return Measurements(space, engine_->model, *engine_->layers, *engine_->yardstick, log_, *pool_);
}

void FitMeasuring::count(const Measurements& done) {
  report_->measured += done.measured();
  report_->reused += done.reused();
}

// Everything that the log holds already; nothing when something is missing.
std::optional<Losses> FitMeasuring::losses_in_log(const Space& space) const {
  Losses out;
  for (const Variable& variable : space.variables) {
    auto& losses = out.emplace_back();
    for (size_t k = 0; k < space.candidates(variable).size(); ++k) {
      if (variable.operand != Operand::weights) {
        losses.push_back(0);
        continue;
      }
      const auto known = log_.single("", variable.name, space.name(variable, static_cast<int>(k)));
      if (!known) return std::nullopt;
      losses.push_back(known->kl);
    }
  }
  return out;
}

Result<Losses> FitMeasuring::singles(const Space& space, std::vector<CacheOption>& caches) {
  NIBBLE_DO(log_.enter(space));
  Losses losses;
  if (auto known = losses_in_log(space)) {
    losses = *std::move(known);
    for (const auto& variable : losses)
      report_->reused += variable.size() > 1 ? static_cast<int64_t>(variable.size()) : 0;
  } else {
    NIBBLE_TRY(Measurements measuring, measurements(space));
    measuring.show(measuring.work_of_losses() + static_cast<double>(caches.size()) * measuring.work_of_trial(),
                   options_->progress);
    NIBBLE_TRY(losses, measuring.losses(std::nullopt));
    count(measuring);
  }
  for (CacheOption& cache : caches) {
    if (cache.plain()) continue;
    if (const auto known = log_.single("", "attention", log_name(cache))) {
      cache.loss = known->kl;
      continue;
    }
    NIBBLE_TRY(Measurements measuring, measurements(space));
    NIBBLE_TRY(const Fidelity found, measuring.attended(cache.attention, log_name(cache)));
    cache.loss = found.kl;
    count(measuring);
  }
  return losses;
}

Result<Losses> FitMeasuring::losses_around(const Space& space, const Choice& choice) {
  NIBBLE_DO(log_.enter(space));
  NIBBLE_TRY(Measurements measuring, measurements(space));
  measuring.show(measuring.work_of_losses(choice) + measuring.work_of_trial(), options_->progress);
  NIBBLE_TRY(Losses losses, measuring.losses(choice));
  count(measuring);
  return losses;
}

Result<std::optional<Fidelity>> FitMeasuring::trial(const Space& space, const Choice& choice,
                                                    const std::string& study) {
  NIBBLE_DO(log_.enter(space));
  if (const auto known = log_.trial(choice)) {
    ++report_->reused;
    return known;
  }
  if (options_->predict_only) return std::nullopt;
  NIBBLE_TRY(Measurements measuring, measurements(space));
  measuring.show(measuring.work_of_trial(), options_->progress);
  NIBBLE_TRY(const Fidelity found, measuring.trial(choice, study));
  count(measuring);
  return found;
}

}  // namespace nibble::search
