#include "search/search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "model/storage.h"
#include "quantize/recipe/plan.h"
#include "search/layers.h"
#include "search/log.h"
#include "search/measurements.h"
#include "search/parzen.h"
#include "search/recipe_file.h"
#include "tokenizer/tokenizer.h"

namespace nibble::search {
namespace {

constexpr const char *kUniform = "uniform", *kKnapsack = "knapsack", *kTpe = "tpe";
constexpr int kFreshDraws = 20;  // of a choice that was not tried yet

// --- the model and what it stores ---------------------------------------------------------------------------------

int64_t bytes_of(const NamedTensors& tensors) {
  int64_t sum = 0;
  for (const TensorView& tensor : tensors.tensors) sum += static_cast<int64_t>(tensor.bytes.size());
  return sum;
}

// All stored tensors but the matrices of the blocks' linears.
Result<int64_t> bits_beside_linears(const ModelSource& source) {
  NIBBLE_TRY(const GlobalWeights globals, source.globals());
  int64_t bytes = bytes_of(global_tensors(globals));
  for (int64_t b = 0; b < source.spec().layers; ++b) {
    NIBBLE_TRY(const BlockWeights block, source.block(b));
    bytes += bytes_of(block_tensors(block, b));
    for (Role role : kAllRoles)
      if (block[role].rows > 0) bytes -= block[role].matrix_bytes();
  }
  return 8 * bytes;
}

Result<Unchosen> unchosen_of(const ModelSource& source, const SearchOptions& options) {
  Unchosen out;
  NIBBLE_TRY(const Recipe recipe, parse_recipe(options.recipe, "the recipe"));
  NIBBLE_TRY(const std::vector<AttentionFormats> attention, closed_attention_of_recipe(recipe, source.spec()));
  out.cache_bits = cache_bits(attention, source.spec().head_dim);
  out.attention = attention;
  if (options.budget.memory) {
    NIBBLE_TRY(out.stored_bits, bits_beside_linears(source));
  }
  return out;
}

// Bits by channel or group are given by steps, on calibration text.
Status check_sizes(const Palette& palette) {
  for (size_t k = 0; k < palette.weights.size(); ++k) {
    if (palette.weights[k].bits != 0) continue;
    const bool channels = palette.weights[k].is_learned();
    return fail(
        ErrorCode::usage,
        "--formats: {} is no single size, and bits by {} need calibration text, which a search does without; "
        "nibble quantize {}",
        palette.name(k), channels ? "channel" : "group",
        channels ? "--palette channels chooses among averages of them" : "--recipe slim-llm --bits X gives them");
  }
  return {};
}

Status check(const SearchOptions& options, const Spec& spec) {
  NIBBLE_DO(check_sizes(options.palette));
  if (options.samples < 1) return fail(ErrorCode::usage, "--samples is {}; expected at least 1", options.samples);
  if (options.length < 2 || options.length > spec.max_positions)
    return fail(ErrorCode::usage, "--window is {}; expected 2 to {}, the model's positions", options.length,
                spec.max_positions);
  if (options.engine == Engine::tpe && options.trials < 1)
    return fail(ErrorCode::usage, "--trials is {}; expected at least 1", options.trials);
  if (options.rounds < 1) return fail(ErrorCode::usage, "--rounds is {}; expected at least 1", options.rounds);
  if (!std::isfinite(options.alpha)) return fail(ErrorCode::usage, "--alpha is {}", options.alpha);
  return {};
}

Result<Samples> read_samples(const SearchOptions& options, const Model& model, ThreadPool& pool) {
  if (options.text.empty()) return write_samples(model, options.samples, options.length, options.seed, pool);
  NIBBLE_TRY(const Tokenizer tokenizer, Tokenizer::load(options.model));
  return draw_samples(options.text, tokenizer, options.samples, options.length, options.seed, "search's");
}

// The steps that round weights while searching: the recipe's, as far as they need no text, in the place of its solver
// rounding to nearest. Channels stay in their order, too.
Json rounding_steps(const Json& recipe) {
  Json out = Json::array();
  for (const Json& step : recipe["steps"])
    if (step.contains("hadamard") || (step.contains("round") && recipe["steps"].size() == 1)) out.push_back(step);
  if (out.empty() || !out.back().contains("round")) out.push_back({{"id", "solve"}, {"round", Json::object()}});
  return out;
}

// What is kept apart has bits that a search does not count.
Status check_base(const Json& recipe) {
  for (const char* step : {"split", "sparse"})
    for (const Json& entry : recipe["steps"])
      if (entry.contains(step))
        return fail(
            ErrorCode::usage,
            "--base: the recipe's step \"{}\" keeps weights apart, which a search does not count; take a recipe "
            "without it, or nibble quantize --fit, --size or --bits, which do",
            step);
  return {};
}

// A rotation in the recipe gets the block that all activations of the palette have, where it does not name one.
Result<Json> with_rotation_blocks(Json recipe, const Palette& palette) {
  for (Json& step : recipe["steps"]) {
    if (!step.contains("hadamard") || step["hadamard"].contains("block")) continue;
    const int64_t block = palette.activations[0].group;
    for (const NumberFormat& format : palette.activations)
      if (format.group != block || block == 0)
        return fail(ErrorCode::usage,
                    "--base: the recipe rotates in the activations' blocks, but {} and {} have no block in common; "
                    "give its step \"hadamard\" a \"block\"",
                    to_string(palette.activations[0]), to_string(format));
    step["hadamard"]["block"] = block;
  }
  return recipe;
}

Json header_of(const SearchOptions& options, const Samples& text, const Yardstick& yardstick, const Json& steps) {
  const auto folder = std::filesystem::absolute(options.model).lexically_normal();
  Json out = Json::object();
  out["nibble_search"] = 1;
  out["model"] = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  out["samples"] = text.count;
  out["length"] = text.length;
  out["tokens"] = text.hash;
  out["fingerprint"] = yardstick.fingerprint();
  out["steps"] = steps;
  return out;
}

// --- choices ----------------------------------------------------------------------------------------------------

// Candidates of a variable by ascending cost.
std::vector<int> by_cost(const Variable& variable) {
  std::vector<int> order(variable.bits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return variable.bits[static_cast<size_t>(a)] < variable.bits[static_cast<size_t>(b)];
  });
  return order;
}

bool limits_activations(const Space& space) {
  return std::any_of(space.pools.begin(), space.pools.end(), [&](const Pool& pool) {
    return pool.limit && std::any_of(pool.variables.begin(), pool.variables.end(),
                                     [&](size_t i) { return space.variables[i].operand != Operand::weights; });
  });
}

// One format everywhere, of each width; weights, activations and attention of the same rank together. Where the latter
// cost nothing they are the widest.
std::vector<Choice> uniform_choices(const Space& space) {
  std::vector<int> ranks[3];
  for (const Variable& variable : space.variables) {
    auto& of = ranks[static_cast<size_t>(variable.operand)];
    if (of.empty()) of = by_cost(variable);
  }
  const auto& [weights, activations, attention] = ranks;
  const bool limited = limits_activations(space);
  const auto beside = [&](const std::vector<int>& ranked, size_t i) {
    if (ranked.empty()) return 0;
    return limited && ranked.size() == ranks[0].size() ? ranked[i] : ranked.back();
  };
  std::vector<Choice> out;
  for (size_t i = 0; i < weights.size(); ++i)
    out.push_back(space.uniform(weights[i], beside(activations, i), beside(attention, i)));
  return out;
}

// Moves random variables to their next cheaper candidates until every pool is within its limit.
void lower_until_it_fits(const Space& space, Choice& choice, Random& random) {
  for (const Pool& pool : space.pools) {
    if (!pool.limit) continue;
    std::vector<size_t> open = pool.variables;
    for (int64_t cost = space.cost(pool, choice); cost > *pool.limit;) {
      const size_t at = static_cast<size_t>(random.below(open.size())), i = open[at];
      const std::vector<int> order = by_cost(space.variables[i]);
      const auto place = std::find(order.begin(), order.end(), choice[i]);
      if (place == order.begin()) {
        open[at] = open.back();
        open.pop_back();
        continue;
      }
      cost -= space.cost(pool, i, choice[i]) - space.cost(pool, i, *(place - 1));
      choice[i] = *(place - 1);
    }
  }
}

// --- the search -------------------------------------------------------------------------------------------------

class Search {
 public:
  Search(const SearchOptions& options, const Space& space, Measurements& measurements, Log& log)
      : options_(options), space_(space), measurements_(measurements), log_(log) {}

  Result<SearchReport> run() {
    const std::vector<Choice> uniform = uniform_choices(space_);
    announce(uniform);
    for (const Choice& choice : uniform) NIBBLE_DO(add(choice, kUniform));
    NIBBLE_DO(options_.engine == Engine::knapsack ? knapsack() : tpe());
    report_.chosen = *best();
    report_.measured = measurements_.measured();
    report_.reused = measurements_.reused();
    return std::move(report_);
  }

 private:
  void announce(const std::vector<Choice>& uniform) {
    double models = 0;
    for (const Choice& choice : uniform) models += !log_.trial(choice);
    double work = 0;
    if (options_.engine == Engine::knapsack) {
      work = measurements_.work_of_losses() * options_.rounds;
      models += options_.rounds + (options_.front ? 2.0 * static_cast<double>(uniform.size()) : 0);
    } else {
      models += std::max<double>(0, options_.trials - static_cast<double>(earlier().size()));
    }
    measurements_.show(work + models * measurements_.work_of_trial(), options_.progress);
  }

  Status add(const Choice& choice, const std::string& study, bool again = false) {
    NIBBLE_TRY(const Fidelity measured, measurements_.trial(choice, study, again));
    keep(choice, study, measured);
    return {};
  }

  void keep(const Choice& choice, const std::string& study, const Fidelity& measured) {
    report_.points.push_back({study.substr(0, study.find(' ')), choice, space_.weight_bits(choice),
                              space_.activation_bits(choice), space_.budget_bits(choice), measured,
                              space_.fits(choice)});
  }

  // Of those that fit, the one with the least KL, the cheaper among equals.
  const Point* best() const {
    const Point* best = nullptr;
    for (const Point& point : report_.points) {
      if (!point.fits) continue;
      const bool better = best == nullptr || point.measured.kl < best->measured.kl ||
                          (point.measured.kl == best->measured.kl && point.budget_bits < best->budget_bits);
      if (better) best = &point;
    }
    return best;
  }

  Status knapsack() {
    NIBBLE_TRY(const Losses losses, measurements_.losses(std::nullopt));
    for (size_t i = 0; i < losses.size(); ++i)
      for (size_t k = 0; k < losses[i].size(); ++k) report_.singles.push_back({i, static_cast<int>(k), losses[i][k]});
    Choice choice = best_choice(space_, losses, limits_of(space_));
    report_.predicted_kl = sum_of(losses, choice);
    NIBBLE_DO(add(choice, kKnapsack));
    for (int round = 1; round < options_.rounds; ++round) {
      const Choice around = best()->choice;
      NIBBLE_TRY(const Losses again, measurements_.losses(around));
      choice = best_choice(space_, again, limits_of(space_));
      if (choice == around) break;
      NIBBLE_DO(add(choice, kKnapsack));
    }
    return options_.front ? front(losses) : Status();
  }

  // The optimum for what each uniform model costs, and between two of them. Pools without a limit have none here.
  Status front(const Losses& losses) {
    std::vector<Limits> costs;
    for (const Choice& choice : uniform_choices(space_)) {
      costs.push_back(limits_of(space_));
      for (size_t p = 0; p < space_.pools.size(); ++p)
        if (space_.pools[p].limit) costs.back()[p] = space_.cost(space_.pools[p], choice);
    }
    const size_t count = costs.size();
    for (size_t i = 1; i < count; ++i) {
      costs.push_back(costs[i]);
      for (size_t p = 0; p < space_.pools.size(); ++p)
        if (costs[i][p]) costs.back()[p] = (*costs[i - 1][p] + *costs[i][p]) / 2;
    }
    for (const Limits& limits : costs) NIBBLE_DO(add(best_choice(space_, losses, limits), kKnapsack));
    return {};
  }

  // What decides which trials come: those of another study are no part of this one's history.
  std::string study() const {
    std::string limits;
    for (const Pool& pool : space_.pools)
      limits += fmt::format("{}{}", limits.empty() ? "" : "+", pool.limit ? *pool.limit - pool.fixed_bits : -1);
    return fmt::format("{} seed={} limit={} tokens={} alpha={} accuracy={}", kTpe, options_.seed, limits,
                       space_.pools[0].tokens, options_.alpha, options_.likelihood ? "nll" : "kl");
  }

  std::vector<LoggedTrial> earlier() const {
    std::vector<LoggedTrial> out;
    for (const LoggedTrial& trial : log_.trials())
      if (trial.study == study()) out.push_back(trial);
    return out;
  }

  ParzenTrial judged(const Choice& choice, const Fidelity& measured) const {
    const double accuracy = options_.likelihood ? -measured.nll : -measured.kl;
    return {choice, accuracy + options_.alpha * 32 / space_.budget_bits(choice)};
  }

  // The uniform models that fit are known from the start; then trials in order, so that a search that goes on does what
  // it would have done without the interruption.
  Status tpe() {
    std::vector<ParzenTrial> history;
    for (const Point& point : report_.points)
      if (point.fits) history.push_back(judged(point.choice, point.measured));
    const std::vector<LoggedTrial> known = earlier();
    for (size_t number = 0; number < static_cast<size_t>(options_.trials); ++number) {
      if (number < known.size()) {
        keep(known[number].choice, kTpe, known[number].measured);
      } else {
        NIBBLE_DO(add(next_choice(history, number), study(), true));
      }
      history.push_back(judged(report_.points.back().choice, report_.points.back().measured));
    }
    report_.predicted_kl = -1;
    return {};
  }

  Choice next_choice(const std::vector<ParzenTrial>& history, size_t number) const {
    Random random(options_.seed * 0x9E3779B97F4A7C15u + number);
    std::vector<int> sizes;
    for (const Variable& variable : space_.variables)
      sizes.push_back(static_cast<int>(space_.candidates(variable).size()));
    Choice choice;
    for (int draw = 0; draw < kFreshDraws; ++draw) {
      choice = suggest(sizes, history, {}, random);
      lower_until_it_fits(space_, choice, random);
      const bool tried =
          std::any_of(history.begin(), history.end(), [&](const ParzenTrial& trial) { return trial.choice == choice; });
      if (!tried) break;
    }
    return choice;
  }

  const SearchOptions& options_;
  const Space& space_;
  Measurements& measurements_;
  Log& log_;
  SearchReport report_;
};

std::string summary_of(const SearchReport& report) {
  const Point& chosen = report.chosen;
  return fmt::format(
      "found by nibble search: weights of {:.3f} bits on average, activations of {:.3f}; mean KL {:.5f} nats",
      chosen.weight_bits, chosen.activation_bits, chosen.measured.kl);
}

}  // namespace

std::vector<size_t> pareto_front(const std::vector<Point>& points) {
  std::vector<size_t> order(points.size()), out;
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const Point &x = points[a], &y = points[b];
    return x.budget_bits != y.budget_bits ? x.budget_bits < y.budget_bits : x.measured.kl < y.measured.kl;
  });
  for (size_t i : order)
    if (out.empty() || points[i].measured.kl < points[out.back()].measured.kl) out.push_back(i);
  return out;
}

Result<SearchReport> run_search(const SearchOptions& options, ThreadPool& pool) {
  const auto start = std::chrono::steady_clock::now();
  NIBBLE_DO(Log::check(options.log, options.resume, options.force));
  NIBBLE_TRY(const auto source, open_model(options.model));
  if (source->quantization() != nullptr)
    return fail(ErrorCode::unsupported, "{} is quantized already; a search needs the original", options.model.string());
  NIBBLE_DO(check(options, source->spec()));
  NIBBLE_TRY(const Unchosen unchosen, unchosen_of(*source, options));
  NIBBLE_TRY(const Space space, make_space(source->spec(), options.palette, options.budget, unchosen));
  NIBBLE_TRY(const Model model, Model::load(*source, {}, pool));
  NIBBLE_DO(check_base(options.recipe));
  NIBBLE_TRY(const Json recipe, with_rotation_blocks(options.recipe, options.palette));
  const Json steps = rounding_steps(recipe);
  NIBBLE_TRY(Layers layers, Layers::make(*source, model, space.palette, steps));
  NIBBLE_DO(layers.check_pairs(pool));
  NIBBLE_TRY(const Samples text, read_samples(options, model, pool));
  NIBBLE_TRY(Yardstick yardstick, Yardstick::make(model, text, pool));
  NIBBLE_TRY(Log log,
             Log::open(options.log, header_of(options, text, yardstick, steps), options.resume, options.force));
  NIBBLE_DO(log.enter(space));
  Measurements measurements(space, model, layers, yardstick, log, pool);
  NIBBLE_TRY(SearchReport report, Search(options, space, measurements, log).run());
  NIBBLE_TRY(report.recipe,
             recipe_text(source->spec(), space, report.chosen.choice, recipe, options.name, summary_of(report)));
  report.space = space;
  report.reference_nll = yardstick.reference_nll();
  report.tokens = text.count * (text.length - 1);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace nibble::search
