#include "search/fit.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <set>

#include "core/cpu.h"
#include "core/file.h"
#include "core/hash.h"
#include "format/attention_formats.h"
#include "measure/divergence.h"
#include "model/globals.h"
#include "quantize/observe/sensitivity.h"
#include "quantize/pipeline/estimate.h"
#include "quantize/quantize.h"
#include "quantize/solve/cholesky.h"
#include "quantize/solve/gptq.h"
#include "quantize/triangle.h"
#include "runtime/packed_cache.h"
#include "search/footprint.h"
#include "search/layers.h"
#include "search/log.h"
#include "search/measurements.h"
#include "search/observer.h"
#include "search/recipe_file.h"
#include "tokenizer/tokenizer.h"

namespace nibble::search {
namespace {

namespace fs = std::filesystem;

// Of the measurement: numbers of another version do not mean the same.
constexpr int kMeasurement = 3;
constexpr size_t kIdLength = 16;
constexpr int64_t kProgram = int64_t{40} << 20;  // program, tokenizer and small things
constexpr int64_t kObservedTokens = 16384;       // of the calibration text that are in memory while formats are tried
constexpr int64_t kWindow = 256, kContext = 4096;
constexpr int64_t kEndless = INT64_MAX / 16;  // bytes
constexpr size_t kContenders = 2;             // uniform models that are measured beside the optimum
constexpr double kMostOwn = 8;                // bits of the recipe's own average
constexpr int64_t kCurve = 40;                // budgets of the curve
constexpr const char* kCaches[] = {"f16", "bfp8:b16", "bfp8:b16/bfp4:b16", "bfp4:b16"};
constexpr const char *kKnapsack = "knapsack", *kUniform = "uniform";

bool is_palette(std::string_view name) {
  const auto rows = palette_rows();
  return std::any_of(rows.begin(), rows.end(), [&](const PaletteRow& row) { return row.name == name; });
}

// A linear of the model in one format of the palette.
struct Priced {
  int64_t stored = 0, resident = 0;  // bytes
  int64_t tensors = 0;
  double average = 0;  // of the site, where columns have bits of their own
};

// How keys and values may be cached.
struct CacheOption {
  std::string name;
  std::vector<AttentionFormats> attention;  // by block
  int64_t bytes = 0;
  double loss = 0;
  bool plain() const {
    return std::all_of(attention.begin(), attention.end(), [](const auto& one) { return one == AttentionFormats(); });
  }
};

// What measures: there only when something is not in the log.
struct Engine {
  Model model;
  Samples text;
  std::optional<Observer> observer;
  std::optional<Layers> layers;
  std::optional<Yardstick> yardstick;
};

class Fitter {
 public:
  Fitter(const FitOptions& options, ThreadPool& pool) : options_(options), pool_(pool) {}

  Result<FitReport> run() {
    NIBBLE_DO(prepare());
    NIBBLE_DO(expect_possible());
    NIBBLE_TRY(Log log, open_log());
    log_ = &log;
    NIBBLE_DO(measure_singles());
    NIBBLE_DO(choose());
    return finish();
  }

  // The original and a written model on the text.
  Result<Fidelity> compare(const fs::path& folder) {
    NIBBLE_DO(open());
    NIBBLE_DO(start_engine(false));
    NIBBLE_TRY(const Model written, Model::load(folder, {}, pool_));
    ScoredText scored;
    scored.ids = engine_->text.tokens;
    for (int64_t i = 0; i < engine_->text.count; ++i)
      scored.passages.push_back({i * engine_->text.length, engine_->text.length, 1});
    ModelLogits expected(engine_->model, scored, pool_), found(written, scored, pool_);
    LogitSource* const candidates[] = {&found};
    NIBBLE_TRY(const auto compared, compare_logits(expected, candidates, pool_));
    return Fidelity{compared[0].mean_kl.value, std::log(compared[0].candidate_perplexity)};
  }

 private:
  // --- what there is to choose from -------------------------------------------------------------------------------

  Status open() {
    NIBBLE_TRY(source_, open_model(options_.model));
    if (source_->quantization() != nullptr)
      return fail(ErrorCode::unsupported, "{} is quantized already; a fit needs the original", options_.model.string());
    spec_ = source_->spec();
    NIBBLE_DO(read_palette_of());
    NIBBLE_DO(check());
    NIBBLE_DO(check_learned());
    for (size_t k = 0; k < palette_.weights.size(); ++k) NIBBLE_DO(add_recipe(k));
    for (const auto& blocks : plans_)
      for (const auto& block : blocks)
        for (const SitePlan& site : block) observes_ = observes_ || site.statistics() != kNoStatistics;
    if (observes_ && options_.calibration.empty())
      return fail(ErrorCode::usage, "the recipe {} needs calibration text: give --calibration", options_.recipe.name);
    return open_sensitivities();
  }

  // Steps that learn levels leave other formats alone: a recipe of them and a palette without any do not fit together.
  // Nor do averages without a step that gives bits to channels.
  Status check_learned() {
    const std::string weights = options_.recipe.source.value("weights", "");
    const auto learned = [](const NumberFormat& format) { return format.is_learned(); };
    bits_step_ = step_of_bits(options_.recipe, open_columns());
    // Linears are solved one by one, but in a model whose input is in integers tables by column agree over a site.
    const std::string input = options_.recipe.source.value("activations", "f32");
    for (size_t k = 0; k < palette_.weights.size(); ++k) {
      if (palette_.weights[k].is_learned() && palette_.weights[k].sharing == Sharing::column &&
          input.starts_with("int"))
        return fail(ErrorCode::usage,
                    "recipe {} has input in {}, with which {} cannot be measured; fit with --set activations=bf16, and "
                    "quantize with the recipe that comes out and --set activations={}",
                    options_.recipe.name, input, palette_.name(k), input);
      if (palette_.weights[k].bits != 0) continue;
      if (!palette_.weights[k].is_learned())
        return fail(ErrorCode::usage,
                    "--palette: {} is no single size; --recipe slim-llm --bits X gives bits to groups",
                    palette_.name(k));
      if (!palette_.gives_averages() || palette_.averages[k] == 0)
        return fail(ErrorCode::usage,
                    "--palette: {0} is no single size; expected averages, {0}@3, or the palette channels; --recipe "
                    "cmpq --bits X gives bits to channels without a fit",
                    palette_.name(k));
      if (bits_step_.empty())
        return fail(ErrorCode::usage,
                    "--palette: {} needs a recipe with a step that gives bits to channels, such as cmpq or cmpq+gptq; "
                    "recipe {} has none",
                    palette_.name(k), options_.recipe.name);
    }
    if (!weights.starts_with("code") || std::any_of(palette_.weights.begin(), palette_.weights.end(), learned))
      return {};
    return fail(ErrorCode::usage,
                "recipe {} learns the levels of weights in {}, and the palette has no such format: give --palette {}, "
                "or another recipe",
                options_.recipe.name, weights, bits_step_.empty() ? "code2:row,code3:row,code4:row" : "channels");
  }

  // The recipe of a format of the palette, and its plans.
  Status add_recipe(size_t k) {
    NIBBLE_TRY(Recipe recipe, customise(options_.recipe, {}, std::vector{".*=" + to_string(palette_.weights[k])}));
    if (palette_.weights[k].bits == 0) {
      NIBBLE_TRY(recipe, with_average(recipe, spec_, bits_step_, palette_.averages[k]));
    }
    recipes_.push_back(std::move(recipe));
    NIBBLE_TRY(auto plans, plan_all(recipes_.back(), spec_));
    plans_.push_back(std::move(plans));
    return {};
  }

  // What steps read of single weights, as for quantizing.
  Status open_sensitivities() {
    bool reads = false;
    for (const auto& blocks : plans_)
      for (size_t block = 0; block < blocks.size(); ++block)
        for (const SitePlan& site : blocks[block])
          for (const LinearPlan& linear : site.linears) {
            if (!linear.reads_sensitivities()) continue;
            reads = true;
            if (options_.sensitivity.empty())
              return fail(ErrorCode::usage, "the recipe {} needs the sensitivities of weights: give --sensitivity",
                          options_.recipe.name);
            if (site.turns())
              return fail(ErrorCode::usage,
                          "recipe {}: sensitivities belong to weights as they are in the checkpoint; expected no step "
                          "that rotates channels",
                          options_.recipe.name);
            if (!weights_) {
              NIBBLE_TRY(weights_, SensitivityFile::open(options_.sensitivity, *source_));
            }
            NIBBLE_DO(weights_->check(static_cast<int64_t>(block), linear.role));
          }
    if (reads || options_.sensitivity.empty()) return {};
    return fail(ErrorCode::usage, "the recipe {} reads no sensitivities with these formats; expected no --sensitivity",
                options_.recipe.name);
  }

  Status check() {
    if (options_.samples < 1) return fail(ErrorCode::usage, "samples is {}; expected at least 1", options_.samples);
    if (options_.text_samples < 1)
      return fail(ErrorCode::usage, "{} samples to measure on; expected at least 1", options_.text_samples);
    text_length_ = options_.text_length > 0 ? options_.text_length : std::min(kWindow, spec_.max_positions);
    if (text_length_ < 2 || text_length_ > spec_.max_positions)
      return fail(ErrorCode::usage, "windows of {} tokens to measure on; expected 2 to {}, the model's positions",
                  text_length_, spec_.max_positions);
    QuantizeOptions quantizing;
    quantizing.length = options_.length;
    NIBBLE_TRY(length_, sample_length(quantizing, spec_));
    context_ = options_.context > 0 ? options_.context : std::min(kContext, spec_.max_positions);
    if (options_.context < 0 || context_ > spec_.max_positions)
      return fail(ErrorCode::usage, "--context is {}; expected 1 to {}, the model's positions", options_.context,
                  spec_.max_positions);
    if (options_.rounds < 1) return fail(ErrorCode::usage, "--rounds is {}; expected at least 1", options_.rounds);
    if (options_.rounds > 1 && palette_.gives_averages())
      return fail(ErrorCode::usage, "--rounds is {}; with averages of bits by channel in --palette there is one round",
                  options_.rounds);
    if (options_.batch < 1) return fail(ErrorCode::usage, "--batch is {}; expected at least 1", options_.batch);
    if (options_.limit == Limit::bits && !(options_.bits > 0 && options_.bits <= 64))
      return fail(ErrorCode::usage, "--bits is {}; expected more than 0, and 64 at most", options_.bits);
    return {};
  }

  // With the type that the checkpoint's linears have.
  Status read_palette_of() {
    const bool named = is_palette(options_.palette);
    auto read = read_palette(named ? options_.palette : "", named ? "" : options_.palette, "f32");
    if (!read) return fail(read.error().code, "--palette {}: {}", options_.palette, read.error().message);
    palette_ = *std::move(read);
    NIBBLE_TRY(const BlockWeights block, source_->block(0));
    const NumberFormat& stored = block[Role::q].format;
    stored_format_ = static_cast<size_t>(std::find(palette_.weights.begin(), palette_.weights.end(), stored) -
                                         palette_.weights.begin());
    if (stored_format_ == palette_.weights.size()) palette_.weights.push_back(stored);
    if (palette_.gives_averages()) palette_.averages.resize(palette_.weights.size());
    return {};
  }

  const LinearPlan& plan_of(size_t format, int64_t block, Role role) const {
    const LinearPlan* found = nullptr;
    for (const SitePlan& site : plans_[format][static_cast<size_t>(block)])
      for (const LinearPlan& linear : site.linears)
        if (linear.role == role) found = &linear;
    NIBBLE_CHECK(found != nullptr);
    return *found;
  }

  Status prepare() {
    NIBBLE_DO(open());
    NIBBLE_TRY(const Isa isa, selected_isa());
    isa_ = isa;
    packing_.emplace(isa, pool_);
    measured_formats_ = palette_.weights.size();
    for (size_t k = 0; k < measured_formats_; ++k) NIBBLE_DO(price(k));
    NIBBLE_TRY(beside_, beside_linears(*source_, options_.recipe, *packing_));
    const Shape head = shape_of(spec_, Global::head);
    NIBBLE_TRY(const GlobalWeights globals, source_->globals());
    const LinearWeight& matrix = globals.head ? *globals.head : globals.embedding;
    NIBBLE_TRY(head_bytes_, options_.recipe.head ? packing_->bytes(head, options_.recipe.head->weights,
                                                                   options_.recipe.head->activations)
                                                 : packing_->bytes(head, matrix.format, NumberFormat()));
    workspace_ = workspace_bytes(spec_, context_, options_.batch, pool_.size());
    NIBBLE_DO(read_caches());
    Budget endless;
    endless.memory = kEndless;
    const WeightCosts costs = [&](int64_t block, Role role, size_t format) {
      const Priced& priced = priced_[format][static_cast<size_t>(block)][static_cast<size_t>(role)];
      return WeightCost{8 * priced.stored, 8 * charged(priced), priced.average};
    };
    NIBBLE_TRY(space_, make_space(spec_, palette_, endless, {}, costs));
    return {};
  }

  // Bytes that the budget counts.
  int64_t charged(const Priced& priced) const {
    return options_.limit == Limit::memory ? priced.resident : priced.stored;
  }

  Status price(size_t k) {
    auto& blocks = priced_.emplace_back();
    for (const std::vector<SitePlan>& plan : plans_[k]) {
      auto& linears = blocks.emplace_back();
      for (const SitePlan& site : plan) {
        const int64_t kept = most_kept(site, spec_);
        for (const LinearPlan& linear : site.linears) {
          std::vector<uint8_t> widths;
          if (linear.weights.bits == 0) widths = even_widths(site, spec_, kept);
          auto facts = packing_->of(spec_, linear, kept, widths);
          if (!facts) return fail(facts.error().code, "{}: {}", linear.name, facts.error().message);
          if (facts->slow && !options_.allow_slow) return refuse_slow(linear, isa_, facts->explanation);
          linears[static_cast<size_t>(linear.role)] = {stored_bytes(site, linear, shape_of(spec_, linear.role), kept),
                                                       facts->bytes, tensors_of(linear, kept), average_of(site)};
        }
      }
    }
    return {};
  }

  // Of a site whose columns have bits of their own, else 0.
  static double average_of(const SitePlan& site) {
    if (std::none_of(site.linears.begin(), site.linears.end(), [](const auto& l) { return l.weights.bits == 0; }))
      return 0;
    for (const PlannedStep& step : site.steps)
      if (step.step->gives_bits(open_columns())) return step.parameters.value("bits", 0.0);
    return 0;
  }

  // What columns in bits of their own take in memory depends on how many have how many: known once it was measured.
  Status price_measured() {
    if (!palette_.gives_averages()) return {};
    for (size_t i : space_.pools[0].variables) {
      Variable& variable = space_.variables[i];
      for (size_t k = 0; k < variable.averages.size(); ++k) {
        const ChannelCounts counts = log_->channels("", variable.name, space_.name(variable, static_cast<int>(k)));
        std::vector<uint8_t> widths;
        for (size_t width = 0; width < counts.size(); ++width)
          widths.insert(widths.end(), static_cast<size_t>(counts[width]), static_cast<uint8_t>(width + 1));
        if (widths.empty()) continue;
        variable.charged[k] = 0;
        for (Role role : variable.roles) {
          Priced& priced = priced_[k][static_cast<size_t>(variable.block)][static_cast<size_t>(role)];
          const LinearPlan& plan = plan_of(k, variable.block, role);
          const int64_t inputs = shape_of(spec_, role).columns;
          NIBBLE_TRY(const PackedFacts facts,
                     packing_->of(spec_, plan, inputs - static_cast<int64_t>(widths.size()), widths));
          priced.resident = facts.bytes;
          variable.charged[k] += 8 * charged(priced);
        }
      }
    }
    return expect_possible();
  }

  static Status refuse_slow(const LinearPlan& linear, Isa isa, const std::string& explanation) {
    return fail(
        ErrorCode::unsupported,
        "{}: weights {} with input {} have no kernel on this machine ({}), only the reference; leave them out of "
        "--palette, or give --allow-slow\n{}",
        linear.name, to_string(linear.weights), to_string(linear.activations), to_string(isa), explanation);
  }

  Status read_caches() {
    NIBBLE_TRY(const std::vector<AttentionFormats> attention, closed_attention_of_recipe(options_.recipe, spec_));
    const auto add = [&](const std::string& format) -> Status {
      CacheOption option{format, attention, 0, 0};
      if (format.empty()) {
        option.name = cache_name(attention[0]);
      } else {
        for (AttentionFormats& block : option.attention) {
          NIBBLE_TRY(block, with_cache(block, format, "--cache"));
        }
        option.name = cache_name(option.attention[0]);
      }
      option.bytes = cache_bytes(spec_, option.attention, context_, options_.batch);
      caches_.push_back(std::move(option));
      return {};
    };
    if (options_.cache != "auto") return add(options_.cache);
    for (const char* format : kCaches) {
      NIBBLE_DO(add(format));
      if (options_.limit != Limit::memory) break;  // it costs nothing: the best
    }
    return {};
  }

  // --- the budget ---------------------------------------------------------------------------------------------------

  int64_t values() const {
    int64_t sum = 0;
    for (size_t i : space_.pools[0].variables) sum += space_.variables[i].values;
    return sum;
  }

  // Bytes of what is not chosen, in what the budget counts.
  int64_t fixed(const CacheOption& cache) const {
    switch (options_.limit) {
      case Limit::bits: return 0;
      case Limit::files: return beside_.stored + header_bytes(spec_, most_tensors());
      case Limit::memory: break;
    }
    return beside_.resident + workspace_ + cache.bytes;
  }

  int64_t most_tensors() const {
    int64_t sum = 0;
    for (int64_t block = 0; block < spec_.layers; ++block)
      for (Role role : kAllRoles) {
        int64_t most = 0;
        for (const auto& blocks : priced_)
          most = std::max(most, blocks[static_cast<size_t>(block)][static_cast<size_t>(role)].tensors);
        sum += most;
      }
    return sum;
  }

  // Bits that the weights may take.
  int64_t limit_bits(const CacheOption& cache) const {
    if (options_.limit == Limit::bits) return limit_of(options_.bits, values());
    return 8 * (std::min(options_.bytes, kEndless) - fixed(cache));
  }

  int64_t least_bits() const {
    int64_t sum = 0;
    for (size_t i : space_.pools[0].variables) {
      const auto begin = space_.variables[i].charged.begin();
      sum += *std::min_element(begin, begin + static_cast<std::ptrdiff_t>(measured_formats_));
    }
    return sum;
  }

  Status expect_possible() const {
    const CacheOption& least = *std::min_element(
        caches_.begin(), caches_.end(), [](const CacheOption& a, const CacheOption& b) { return a.bytes < b.bytes; });
    const int64_t weights = least_bits();
    if (weights <= limit_bits(least)) return {};
    const int64_t bytes = (weights + 7) / 8;
    switch (options_.limit) {
      case Limit::bits:
        return fail(ErrorCode::usage, "--bits {} is impossible: the narrowest formats need {:.4f} bits on average",
                    options_.bits,
                    std::ceil(static_cast<double>(weights) / static_cast<double>(values()) * 1e4) * 1e-4);
      case Limit::files:
        return fail(ErrorCode::usage,
                    "--size {} is impossible: at least {} bytes are needed: {} for the linears in the narrowest "
                    "formats, {} for embeddings, head, norms and headers",
                    options_.bytes, bytes + fixed(least), bytes, fixed(least));
      case Limit::memory: break;
    }
    return fail(ErrorCode::usage,
                "--fit {} is impossible: at least {} bytes are needed: {} for the linears in the narrowest formats, {} "
                "for embeddings, head and norms, {} for the KV cache of {} x {} tokens in {}, {} for workspace",
                options_.bytes, bytes + fixed(least), bytes, beside_.resident, least.bytes, options_.batch, context_,
                least.name, workspace_);
  }

  // --- measuring --------------------------------------------------------------------------------------------------

  // What the numbers depend on.
  Result<Json> header() {
    const auto folder = fs::absolute(options_.model).lexically_normal();
    Json out = Json::object();
    out["nibble_search"] = 1;
    out["measurement"] = kMeasurement;
    out["model"] = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
    NIBBLE_TRY(const Json key, packed_cache_key(options_.model, Isa::portable, ""));
    out["files"] = key["files"];
    Json recipe = options_.recipe.source;
    for (const char* unused : {"name", "summary", "paper", "weights", "cache", "head", "attention"})
      recipe.erase(unused);
    out["recipe"] = std::move(recipe);
    NIBBLE_TRY(const Tokenizer tokenizer, Tokenizer::load(options_.model));
    if (observes_) {
      const int64_t count = std::clamp<int64_t>(kObservedTokens / length_, 1, options_.samples);
      NIBBLE_TRY(calibration_,
                 draw_samples(options_.calibration, tokenizer, count, length_, options_.seed, "calibration"));
      out["calibration"] = {{"samples", count}, {"length", length_}, {"tokens", calibration_->hash}};
    }
    if (weights_) {
      NIBBLE_TRY(const std::string hash, sha256_file(options_.sensitivity));
      out["sensitivity"] = hash;
    }
    NIBBLE_DO(draw_text(tokenizer));
    out["text"] = {{"samples", options_.text_samples}, {"length", text_length_}};
    if (text_) out["text"]["tokens"] = text_->hash;
    if (!text_) out["text"]["seed"] = options_.seed;
    return out;
  }

  // Other places of the calibration text where no text is given; nothing when the model is to write it.
  Status draw_text(const Tokenizer& tokenizer) {
    const bool own = !options_.text.empty();
    const auto& files = own ? options_.text : options_.calibration;
    if (files.empty()) return {};
    NIBBLE_TRY(text_, draw_samples(files, tokenizer, options_.text_samples, text_length_, options_.seed + (own ? 0 : 1),
                                   "measuring"));
    return {};
  }

  Result<Log> open_log() {
    NIBBLE_TRY(const Json first, header());
    if (!options_.sensitivities.empty()) {
      std::error_code error;
      fs::create_directories(options_.sensitivities, error);
      if (error)
        return fail(ErrorCode::io, "cannot make the folder {}: {}", options_.sensitivities.string(), error.message());
      const std::string model = first["model"].get<std::string>();
      report_.log =
          options_.sensitivities / fmt::format("{}-{}.jsonl", model, sha256(dump_json(first)).substr(0, kIdLength));
      if (!fs::exists(report_.log, error)) note_others(first, model + "-");
    }
    return Log::open(report_.log, first, true, false);
  }

  // Earlier measurements that look as if they were of this model, and why they are not used.
  void note_others(const Json& ours, const std::string& beginning) {
    std::error_code error;
    std::set<fs::path> others;
    for (const fs::directory_entry& entry : fs::directory_iterator(options_.sensitivities, error))
      if (entry.path().filename().string().starts_with(beginning)) others.insert(entry.path());
    for (const fs::path& path : others) {
      const auto text = read_text(path);
      if (!text) continue;
      const auto first = parse_json(std::string_view(*text).substr(0, text->find('\n')), path.string());
      if (!first || !first->is_object()) continue;
      for (const auto& item : ours.items()) {
        const Json* theirs = find_path(*first, {item.key()});
        if (theirs != nullptr && *theirs == item.value()) continue;
        report_.notes.push_back(
            fmt::format("the sensitivities in {} are not used: they were measured with another "
                        "\"{}\"",
                        path.string(), item.key()));
        break;
      }
    }
  }

  // Memory while formats are measured, about: the float model, its predictions and the states of both texts, a block as
  // read and its statistics, and one linear being solved.
  int64_t measuring_bytes() const {
    int64_t model = beside_.resident, statistics = 0, solving = 0;
    for (const auto& block : priced_[stored_format_])
      for (const Priced& linear : block) model += linear.resident;
    for (const Priced& linear : priced_[stored_format_][0]) model += linear.resident;
    for (const auto& blocks : plans_)
      for (const SitePlan& site : blocks[0]) {
        const bool gram = (site.statistics() & kGram) != 0;
        for (const LinearPlan& linear : site.linears) {
          const Shape shape = shape_of(spec_, linear.role);
          int64_t bytes = 8 * shape.rows * shape.columns;  // as floats, solved and packed
          if (gram)
            bytes += Triangle::bytes(site.inputs) + std::max(factor_scratch_bytes(site.inputs, pool_.size()),
                                                             gptq_scratch_bytes(shape.rows, site.inputs, pool_.size()));
          solving = std::max(solving, bytes);
        }
      }
    for (const SitePlan& site : plans_[0][0])
      if (site.statistics() & kGram) statistics += Triangle::bytes(site.inputs);
    const int64_t tokens = options_.text_samples * text_length_;
    const int64_t observed = calibration_ ? calibration_->count * calibration_->length : 0;
    return model + statistics + solving + 4 * tokens * (spec_.vocabulary + 3 * spec_.hidden) +
           4 * observed * spec_.hidden + workspace_bytes(spec_, text_length_, 1, pool_.size()) + kProgram;
  }

  Status expect_memory() const {
    if (options_.memory_limit == 0 || measuring_bytes() <= options_.memory_limit) return {};
    return fail(
        ErrorCode::usage,
        "the memory limit of {} bytes is too small to measure formats of this model: about {} bytes are needed; "
        "the float model stays in memory, and --fit-samples makes the rest smaller",
        options_.memory_limit, measuring_bytes());
  }

  Status start_engine(bool measuring) {
    if (engine_ && (engine_->yardstick || !measuring)) return {};
    NIBBLE_DO(expect_memory());
    if (!engine_) {
      NIBBLE_TRY(Model model, Model::load(*source_, {}, pool_));
      engine_ = std::make_unique<Engine>(Engine{std::move(model), {}, {}, {}, {}});
      if (!text_) {
        NIBBLE_TRY(const Tokenizer tokenizer, Tokenizer::load(options_.model));
        NIBBLE_DO(draw_text(tokenizer));
      }
      if (text_) engine_->text = *text_;
      if (!text_) {
        NIBBLE_TRY(engine_->text,
                   write_samples(engine_->model, options_.text_samples, text_length_, options_.seed, pool_));
      }
    }
    if (!measuring) return {};
    if (calibration_) engine_->observer.emplace(engine_->model, *calibration_);
    NIBBLE_TRY(Layers layers,
               Layers::make(*source_, engine_->model, palette_, recipes_, calibration_ ? &*engine_->observer : nullptr,
                            weights_ ? &*weights_ : nullptr));
    if (options_.memory_limit > 0) layers.keep_at_most(options_.memory_limit - measuring_bytes());
    engine_->layers.emplace(std::move(layers));
    NIBBLE_TRY(Yardstick yardstick, Yardstick::make(engine_->model, engine_->text, pool_));
    engine_->yardstick.emplace(std::move(yardstick));
    return {};
  }

  Measurements measurements(const Space& space) {
    return Measurements(space, engine_->model, *engine_->layers, *engine_->yardstick, *log_, pool_);
  }

  void count(const Measurements& done) {
    report_.measured += done.measured();
    report_.reused += done.reused();
  }

  // Everything that the log holds already; nothing when something is missing.
  std::optional<Losses> known_losses() const {
    Losses out;
    for (const Variable& variable : space_.variables) {
      auto& losses = out.emplace_back();
      for (size_t k = 0; k < space_.candidates(variable).size(); ++k) {
        if (variable.operand != Operand::weights) {
          losses.push_back(0);
          continue;
        }
        const auto known = log_->single("", variable.name, space_.name(variable, static_cast<int>(k)));
        if (!known) return std::nullopt;
        losses.push_back(known->kl);
      }
    }
    return out;
  }

  static std::string log_name(const CacheOption& cache) {
    Json blocks = Json::array();
    for (const AttentionFormats& one : cache.attention)
      if (blocks.empty() || blocks.back() != to_json(one)) blocks.push_back(to_json(one));
    return dump_json(blocks);
  }

  Status measure_singles() {
    NIBBLE_DO(log_->enter(space_));
    if (auto known = known_losses()) {
      losses_ = *std::move(known);
      for (const auto& variable : losses_)
        report_.reused += variable.size() > 1 ? static_cast<int64_t>(variable.size()) : 0;
    } else {
      NIBBLE_DO(start_engine(true));
      Measurements measuring = measurements(space_);
      measuring.show(measuring.work_of_losses() + static_cast<double>(caches_.size()) * measuring.work_of_trial(),
                     options_.progress);
      NIBBLE_TRY(losses_, measuring.losses(std::nullopt));
      count(measuring);
    }
    for (CacheOption& cache : caches_) {
      if (cache.plain()) continue;
      if (const auto known = log_->single("", "attention", log_name(cache))) {
        cache.loss = known->kl;
        continue;
      }
      NIBBLE_DO(start_engine(true));
      Measurements measuring = measurements(space_);
      NIBBLE_TRY(const Fidelity found, measuring.attended(cache.attention, log_name(cache)));
      cache.loss = found.kl;
      count(measuring);
    }
    for (size_t i = 0; i < losses_.size(); ++i)
      for (size_t k = 0; k < losses_[i].size() && losses_[i].size() > 1; ++k)
        report_.singles.push_back({i, static_cast<int>(k), losses_[i][k]});
    NIBBLE_DO(price_measured());
    return add_guesses();
  }

  // What a plan is logged as a choice of: with its cache, and without the recipe's own average unless it is that, so
  // that other budgets find it.
  Space space_of(const FitPlan& plan) const {
    Space space = space_;
    const CacheOption& cache = cache_named(plan.cache);
    if (!cache.plain()) space.attention = cache.attention;
    if (!own_is_added_ || uses_own(plan.choice)) return space;
    space.palette.weights.pop_back();
    space.palette.averages.pop_back();
    return space;
  }

  // A whole model; nothing when it is unknown and not to be measured.
  Result<std::optional<Fidelity>> measure(const FitPlan& plan) {
    const Space space = space_of(plan);
    NIBBLE_DO(log_->enter(space));
    if (const auto known = log_->trial(plan.choice)) {
      ++report_.reused;
      return known;
    }
    if (options_.predict_only) return std::nullopt;
    NIBBLE_DO(start_engine(true));
    Measurements measuring = measurements(space);
    measuring.show(measuring.work_of_trial(), options_.progress);
    NIBBLE_TRY(const Fidelity found, measuring.trial(plan.choice, plan.study));
    count(measuring);
    return found;
  }

  // --- choosing ---------------------------------------------------------------------------------------------------

  const CacheOption& cache_named(const std::string& name) const {
    return *std::find_if(caches_.begin(), caches_.end(), [&](const CacheOption& one) { return one.name == name; });
  }

  FitPlan planned(Choice choice, const std::string& study, const CacheOption& cache) const {
    FitPlan out;
    out.study = study;
    out.cache = cache.name;
    out.bits = space_.weight_bits(choice);
    out.predicted_kl = sum_of(own_is_added_ ? losses_with_own_ : losses_, choice) + cache.loss;
    out.fits = space_.cost(space_.pools[0], choice) <= limit_bits(cache);
    int64_t tensors = 0;
    for (size_t i : space_.pools[0].variables) {
      const Variable& variable = space_.variables[i];
      for (Role role : variable.roles) {
        const Priced& priced =
            priced_[static_cast<size_t>(choice[i])][static_cast<size_t>(variable.block)][static_cast<size_t>(role)];
        out.bytes.linears += priced.stored;
        out.bytes.resident_linears += priced.resident;
        tensors += priced.tensors;
      }
    }
    out.bytes.files = out.bytes.linears + beside_.stored + header_bytes(spec_, tensors);
    out.bytes.resident_rest = beside_.resident;
    out.bytes.cache = cache.bytes;
    out.bytes.workspace = workspace_;
    out.bytes.read_per_token = out.bytes.resident_linears + head_bytes_;
    out.choice = std::move(choice);
    return out;
  }

  FitPlan optimum(int64_t bits, const CacheOption& cache) const {
    Limits limits = limits_of(space_);
    limits[0] = bits;
    return planned(best_choice(space_, losses_, limits), kKnapsack, cache);
  }

  // --- averages between those that were measured
  // ----------------------------------------------------------------------

  bool uses_own(const Choice& choice) const {
    return own_is_added_ && std::find(choice.begin(), choice.end(), static_cast<int>(*own_)) != choice.end();
  }

  // The measured averages on both sides of another one, and how near it is to the second.
  struct Between {
    size_t below, above;
    double part;
  };
  Between between(const Variable& variable, double average) const {
    Between out{0, 0, 0};
    double low = 0, high = 1e9;
    for (size_t k = 0; k < measured_formats_; ++k) {
      const double at = variable.averages[k];
      if (at == 0) continue;
      if (at <= average && at > low) low = at, out.below = k;
      if (at >= average && at < high) high = at, out.above = k;
    }
    if (low == 0) out.below = out.above;
    if (high == 1e9) out.above = out.below;
    if (out.below != out.above) out.part = (average - low) / (high - low);
    return out;
  }

  // What a site takes with an average that was not measured.
  int64_t charged_between(const Variable& variable, double average) const {
    if (options_.limit != Limit::memory) {
      int64_t bytes = 0;
      for (Role role : variable.roles) {
        const Shape shape = shape_of(spec_, role);
        bytes += static_cast<int64_t>(average * static_cast<double>(shape.rows * shape.columns) / 8);
      }
      return 8 * bytes;
    }
    const Between at = between(variable, average);
    const auto low = static_cast<double>(variable.charged[at.below]);
    return std::llround(low + at.part * (static_cast<double>(variable.charged[at.above]) - low));
  }

  bool own_fits(double average, int64_t limit) const {
    int64_t sum = 0;
    for (size_t i : space_.pools[0].variables)
      sum += charged_between(space_.variables[i], std::max(average, least_averages_[i]));
    return sum <= limit;
  }

  // The largest average for all sites that is within the budget, in hundredths or just what was asked for.
  std::optional<double> own_average(const CacheOption& cache) {
    least_averages_.assign(space_.variables.size(), 0);
    for (size_t i : space_.pools[0].variables) {
      const Variable& variable = space_.variables[i];
      const auto open = static_cast<size_t>(
          std::find_if(variable.averages.begin(), variable.averages.end(), [](double a) { return a > 0; }) -
          variable.averages.begin());
      for (const SitePlan& site : plans_[open][static_cast<size_t>(variable.block)])
        if (site.site.roles == variable.roles) least_averages_[i] = least_average(site, spec_, most_kept(site, spec_));
    }
    const int64_t limit = limit_bits(cache);
    if (options_.limit == Limit::bits && options_.bits <= kMostOwn && own_fits(options_.bits, limit))
      return options_.bits;
    int low = 99,
        high = static_cast<int>(100 * kMostOwn) + 1;  // hundredths: the greatest that fits, the least that does not
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (own_fits(middle / 100.0, limit) ? low : high) = middle;
    }
    return low < 100 ? std::nullopt : std::optional(low / 100.0);
  }

  // The same average for all sites, as the recipe alone would have it in this budget: the fit must not be worse.
  Status add_own(const CacheOption& cache) {
    if (!palette_.gives_averages()) return {};
    const std::optional<double> average = own_average(cache);
    if (!average) return {};
    own_ = static_cast<size_t>(std::find(palette_.averages.begin(), palette_.averages.end(), *average) -
                               palette_.averages.begin());
    if (own_ < palette_.averages.size()) return {};
    NIBBLE_DO(add_average(*average));
    own_is_added_ = true;
    losses_with_own_ = losses_;
    for (size_t i : space_.pools[0].variables) losses_with_own_[i].push_back(guess(i, *own_));
    return {};
  }

  // Of everything between the averages that were measured, in steps of a tenth.
  Status add_guesses() {
    if (!palette_.gives_averages()) return {};
    const std::vector<double> measured = palette_.averages;
    const double most = *std::max_element(measured.begin(), measured.end());
    double least = most;
    for (const double average : measured) least = average > 0 ? std::min(least, average) : least;
    for (auto tenths = static_cast<int>(10 * least) + 1; tenths / 10.0 < most; ++tenths) {
      if (std::find(measured.begin(), measured.end(), tenths / 10.0) != measured.end()) continue;
      NIBBLE_DO(add_average(tenths / 10.0));
      for (size_t i : space_.pools[0].variables) losses_[i].push_back(guess(i, palette_.weights.size() - 1));
    }
    return {};
  }

  // One more format of the palette: bits by column with another average.
  Status add_average(double average) {
    const auto open =
        std::find_if(palette_.weights.begin(), palette_.weights.end(), [](const auto& f) { return f.bits == 0; });
    const NumberFormat format = *open;
    palette_.weights.push_back(format);
    palette_.averages.push_back(average);
    NIBBLE_DO(add_recipe(palette_.weights.size() - 1));
    NIBBLE_DO(price(palette_.weights.size() - 1));
    if (engine_ && engine_->layers) engine_->layers->add(recipes_.back());
    space_.palette = palette_;
    return {};
  }

  // What a site takes with an average that was not measured, and as the result what it loses: the logarithm of the loss
  // is nearly linear in the bits.
  double guess(size_t i, size_t k) {
    Variable& variable = space_.variables[i];
    auto& priced = priced_[k][static_cast<size_t>(variable.block)];
    const double average = priced[static_cast<size_t>(variable.roles[0])].average;
    const Between at = between(variable, average);
    int64_t stored = 0;
    for (Role role : variable.roles) {
      const auto resident = [&](size_t format) {
        return static_cast<double>(
            priced_[format][static_cast<size_t>(variable.block)][static_cast<size_t>(role)].resident);
      };
      Priced& of = priced[static_cast<size_t>(role)];
      of.resident = std::llround(resident(at.below) + at.part * (resident(at.above) - resident(at.below)));
      stored += 8 * of.stored;
    }
    variable.bits.push_back(stored);
    variable.charged.push_back(charged_between(variable, average));
    variable.averages.push_back(average);
    const double below = std::log(std::max(losses_[i][at.below], 1e-12)),
                 above = std::log(std::max(losses_[i][at.above], 1e-12));
    return std::exp(below + at.part * (above - below));
  }

  // Every format everywhere, with the best cache that fits.
  void list_uniform() {
    std::set<std::vector<double>> seen;  // averages that sites have raised to the same
    for (size_t k = 0; k < palette_.weights.size(); ++k) {
      if (k >= measured_formats_ && k != own_) continue;
      std::vector<double> averages;
      for (size_t i : space_.pools[0].variables)
        if (!space_.variables[i].averages.empty()) averages.push_back(space_.variables[i].averages[k]);
      if (!averages.empty() && averages[0] > 0 && !seen.insert(averages).second) continue;
      std::optional<FitPlan> best;
      for (const CacheOption& cache : caches_) {
        FitPlan plan = planned(space_.uniform(static_cast<int>(k), 0), kUniform, cache);
        const bool better =
            !best || std::pair(!plan.fits, plan.predicted_kl) < std::pair(!best->fits, best->predicted_kl);
        if (better) best = std::move(plan);
      }
      report_.uniform.push_back(std::move(*best));
    }
    std::stable_sort(report_.uniform.begin(), report_.uniform.end(),
                     [](const FitPlan& a, const FitPlan& b) { return a.bits < b.bits; });
  }

  Status choose() {
    std::optional<FitPlan> best;
    for (const CacheOption& cache : caches_) {
      if (least_bits() > limit_bits(cache)) continue;
      FitPlan plan = optimum(limit_bits(cache), cache);
      if (!best || plan.predicted_kl < best->predicted_kl) best = std::move(plan);
    }
    report_.chosen = *std::move(best);
    NIBBLE_DO(add_own(cache_named(report_.chosen.cache)));
    list_uniform();
    NIBBLE_TRY(report_.chosen.measured, measure(report_.chosen));
    for (FitPlan* rival : contenders()) {
      NIBBLE_TRY(rival->measured, measure(*rival));
      if (rival->measured && report_.chosen.measured && rival->measured->kl < report_.chosen.measured->kl)
        report_.chosen = *rival;
    }
    for (int round = 1; round < options_.rounds && !options_.predict_only; ++round) {
      NIBBLE_TRY(const bool better, go_round());
      if (!better) break;
    }
    draw_curve();
    return {};
  }

  // Measures around the chosen model, and takes the optimum of that where it is better.
  Result<bool> go_round() {
    const CacheOption& cache = cache_named(report_.chosen.cache);
    const Space space = space_of(report_.chosen);
    NIBBLE_DO(log_->enter(space));
    NIBBLE_DO(start_engine(true));
    Measurements measuring = measurements(space);
    measuring.show(measuring.work_of_losses(report_.chosen.choice) + measuring.work_of_trial(), options_.progress);
    NIBBLE_TRY(const Losses losses, measuring.losses(report_.chosen.choice));
    count(measuring);
    Limits limits = limits_of(space_);
    limits[0] = limit_bits(cache);
    FitPlan plan = planned(best_choice(space_, losses, limits), kKnapsack, cache);
    if (plan.choice == report_.chosen.choice) return false;
    NIBBLE_TRY(plan.measured, measure(plan));
    if (plan.measured->kl >= report_.chosen.measured->kl) return false;
    report_.chosen = std::move(plan);
    return true;
  }

  // The uniform models that might be better than the optimum of the sums, and the recipe's own average.
  std::vector<FitPlan*> contenders() {
    std::vector<FitPlan*> out;
    for (FitPlan& plan : report_.uniform)
      if (plan.fits && plan.choice != report_.chosen.choice) out.push_back(&plan);
    const auto key = [&](const FitPlan* plan) {
      const bool own = own_ && plan->choice[space_.pools[0].variables[0]] == static_cast<int>(*own_);
      return std::pair(!own, plan->predicted_kl);
    };
    std::stable_sort(out.begin(), out.end(), [&](auto* a, auto* b) { return key(a) < key(b); });
    while (out.size() > kContenders) out.pop_back();
    return out;
  }

  void draw_curve() {
    const CacheOption& cache = cache_named(report_.chosen.cache);
    const int64_t least = least_bits(), most = space_.cost(space_.pools[0], optimum(kEndless, cache).choice);
    for (int64_t i = 0; i <= kCurve; ++i) {
      FitPlan plan = optimum(least + (most - least) / kCurve * i + (i == kCurve ? (most - least) % kCurve : 0), cache);
      if (report_.curve.empty() || plan.choice != report_.curve.back().choice) report_.curve.push_back(std::move(plan));
    }
  }

  Result<FitReport> finish() {
    const FitPlan& chosen = report_.chosen;
    const std::string summary =
        fmt::format("fitted: weights of {:.3f} bits on average, KV cache {}; predicted mean KL {:.5f} nats",
                    chosen.bits, chosen.cache, chosen.predicted_kl);
    NIBBLE_TRY(report_.recipe, fitted_recipe_text(spec_, space_, chosen.choice, options_.recipe.source, bits_step_,
                                                  options_.cache.empty() ? "" : chosen.cache, options_.name, summary));
    NIBBLE_DO(expect_activations());
    report_.spec = spec_;
    report_.context = context_;
    report_.tokens = options_.text_samples * (text_length_ - 1);
    const int64_t used = options_.limit == Limit::memory ? chosen.bytes.memory() : chosen.bytes.files;
    if (options_.limit != Limit::bits) {
      report_.limit_bytes = options_.bytes;
      report_.left_bytes = options_.bytes - used;
    }
    report_.space = std::move(space_);
    return std::move(report_);
  }

  // The recipe's inputs must be those that were measured with.
  Status expect_activations() const {
    NIBBLE_TRY(const Json source, parse_json(report_.recipe, "the recipe that was found"));
    NIBBLE_TRY(const Recipe recipe, parse_recipe(source, "the recipe that was found"));
    NIBBLE_TRY(const auto plans, plan_all(recipe, spec_));
    for (size_t i : space_.pools[0].variables) {
      const Variable& variable = space_.variables[i];
      for (const SitePlan& site : plans[static_cast<size_t>(variable.block)])
        for (const LinearPlan& linear : site.linears) {
          if (std::find(variable.roles.begin(), variable.roles.end(), linear.role) == variable.roles.end()) continue;
          const LinearPlan& measured =
              plan_of(static_cast<size_t>(report_.chosen.choice[i]), variable.block, linear.role);
          if (linear.activations != measured.activations)
            return fail(ErrorCode::usage,
                        "{}: the formats of the palette do not go together: with weights {} its input would be {}, not "
                        "{} as it was measured; give --palette formats that the recipe's activations serve",
                        linear.name, to_string(linear.weights), to_string(linear.activations),
                        to_string(measured.activations));
        }
    }
    return {};
  }

  const FitOptions& options_;
  ThreadPool& pool_;
  std::unique_ptr<ModelSource> source_;
  Spec spec_;
  Isa isa_ = Isa::portable;
  Palette palette_;
  size_t measured_formats_ = 0;  // of the palette: without averages that are guessed
  size_t stored_format_ = 0;     // of the palette: the type that the checkpoint has
  std::string bits_step_;        // of the recipe, that gives bits to channels; empty without one
  std::vector<Recipe> recipes_;  // by format
  std::vector<std::vector<std::vector<SitePlan>>> plans_;        // by format and block
  std::vector<std::vector<std::array<Priced, kRoles>>> priced_;  // by format, block and role
  std::optional<SensitivityFile> weights_;                       // of single weights, from outside
  bool observes_ = false;
  int64_t length_ = 0, text_length_ = 0, context_ = 0;
  std::optional<Packing> packing_;
  Beside beside_;
  int64_t head_bytes_ = 0, workspace_ = 0;
  std::vector<CacheOption> caches_;
  Space space_;
  std::optional<Samples> calibration_, text_;
  Log* log_ = nullptr;
  std::unique_ptr<Engine> engine_;
  Losses losses_;                       // with those that are guessed
  std::optional<size_t> own_;           // the recipe's own average in this budget, among the palette's formats
  bool own_is_added_ = false;           // it is the last one, for want of a format with this average
  Losses losses_with_own_;              // as guessed
  std::vector<double> least_averages_;  // by variable
  FitReport report_;
};

}  // namespace

Result<FitReport> run_fit(const FitOptions& options, ThreadPool& pool) {
  const auto start = std::chrono::steady_clock::now();
  NIBBLE_TRY(FitReport report, Fitter(options, pool).run());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

Result<Fidelity> measure_written(const FitOptions& options, const fs::path& model, ThreadPool& pool) {
  return Fitter(options, pool).compare(model);
}

}  // namespace nibble::search
