#include "search/fit.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "measure/divergence.h"
#include "quantize/pipeline/estimate.h"
#include "runtime/model.h"
#include "search/fit_averages.h"
#include "search/fit_budget.h"
#include "search/fit_candidates.h"
#include "search/fit_measuring.h"
#include "search/measurements.h"
#include "search/recipe_file.h"

namespace nibble::search {
namespace {

namespace fs = std::filesystem;

constexpr size_t kContenders = 2;  // uniform models that are measured beside the optimum
constexpr int64_t kCurve = 40;     // budgets of the curve
constexpr const char *kKnapsack = "knapsack", *kUniform = "uniform";

// The best of what was measured.
class Fitter {
 public:
  // All must outlive this. `space`: the linears with what they cost.
  Fitter(const FitOptions& options, Candidates& candidates, FitBudget& budget, FitMeasuring& measuring, Space space,
         FitReport& report)
      : options_(options),
        candidates_(candidates),
        budget_(budget),
        measuring_(measuring),
        space_(std::move(space)),
        averages_(options, candidates, budget, measuring, space_, losses_),
        report_(report) {}

  Status run() {
    NIBBLE_TRY(losses_, measuring_.singles(space_, budget_.caches()));
    for (size_t i = 0; i < losses_.size(); ++i)
      for (size_t k = 0; k < losses_[i].size() && losses_[i].size() > 1; ++k)
        report_.singles.push_back({i, static_cast<int>(k), losses_[i][k]});
    NIBBLE_DO(budget_.price_measured(measuring_.log(), space_));
    NIBBLE_DO(averages_.add_guesses());
    NIBBLE_DO(choose());
    return finish();
  }

 private:
  FitPlan planned(Choice choice, const std::string& study, const CacheOption& cache) const {
    FitPlan out;
    out.study = study;
    out.cache = cache.name;
    out.bits = space_.weight_bits(choice);
    out.predicted_kl = sum_of(averages_.all_losses(), choice) + cache.loss;
    out.fits = space_.cost(space_.pools[0], choice) <= budget_.limit_bits(space_, cache);
    out.bytes = budget_.bytes_of(space_, choice, cache);
    out.choice = std::move(choice);
    return out;
  }

  FitPlan optimum(const Losses& losses, int64_t bits, const CacheOption& cache) const {
    Limits limits = limits_of(space_);
    limits[0] = bits;
    return planned(best_choice(space_, losses, limits), kKnapsack, cache);
  }

  // What a plan is logged as a choice of: with its cache, and without the recipe's own average unless it is that, so
  // that other budgets find it.
  Space space_of(const FitPlan& plan) const {
    Space space = space_;
    const CacheOption& cache = budget_.cache_named(plan.cache);
    if (!cache.plain()) space.attention = cache.attention;
    if (!averages_.own_is_added() || averages_.uses_added(plan.choice)) return space;
    space.palette.weights.pop_back();
    space.palette.averages.pop_back();
    return space;
  }

  Result<std::optional<Fidelity>> measure(const FitPlan& plan) {
    return measuring_.trial(space_of(plan), plan.choice, plan.study);
  }

  // Every format everywhere, with the best cache that fits.
  void list_uniform() {
    std::set<std::vector<double>> seen;  // averages that sites have raised to the same
    for (size_t k = 0; k < space_.palette.weights.size(); ++k) {
      if (k >= candidates_.measured && k != averages_.own()) continue;
      std::vector<double> averages;
      for (size_t i : space_.pools[0].variables)
        if (!space_.variables[i].averages.empty()) averages.push_back(space_.variables[i].averages[k]);
      if (!averages.empty() && averages[0] > 0 && !seen.insert(averages).second) continue;
      std::optional<FitPlan> best;
      for (const CacheOption& cache : budget_.caches()) {
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
    for (const CacheOption& cache : budget_.caches()) {
      const int64_t limit = budget_.limit_bits(space_, cache);
      if (budget_.least_bits(space_) > limit) continue;
      FitPlan plan = optimum(losses_, limit, cache);
      if (!best || plan.predicted_kl < best->predicted_kl) best = std::move(plan);
    }
    report_.chosen = *std::move(best);
    NIBBLE_DO(averages_.add_own(budget_.cache_named(report_.chosen.cache)));
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
    const CacheOption& cache = budget_.cache_named(report_.chosen.cache);
    NIBBLE_TRY(const Losses losses, measuring_.losses_around(space_of(report_.chosen), report_.chosen.choice));
    FitPlan plan = optimum(losses, budget_.limit_bits(space_, cache), cache);
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
      const std::optional<size_t>& own = averages_.own();
      const bool is_own = own && plan->choice[space_.pools[0].variables[0]] == static_cast<int>(*own);
      return std::pair(!is_own, plan->predicted_kl);
    };
    std::stable_sort(out.begin(), out.end(), [&](auto* a, auto* b) { return key(a) < key(b); });
    while (out.size() > kContenders) out.pop_back();
    return out;
  }

  void draw_curve() {
    const CacheOption& cache = budget_.cache_named(report_.chosen.cache);
    const int64_t least = budget_.least_bits(space_),
                  most = space_.cost(space_.pools[0], optimum(losses_, kEndless, cache).choice);
    for (int64_t i = 0; i <= kCurve; ++i) {
      FitPlan plan =
          optimum(losses_, least + (most - least) / kCurve * i + (i == kCurve ? (most - least) % kCurve : 0), cache);
      if (report_.curve.empty() || plan.choice != report_.curve.back().choice) report_.curve.push_back(std::move(plan));
    }
  }

  Status finish() {
    const FitPlan& chosen = report_.chosen;
    const std::string summary =
        fmt::format("fitted: weights of {:.3f} bits on average, KV cache {}; predicted mean KL {:.5f} nats",
                    chosen.bits, chosen.cache, chosen.predicted_kl);
    NIBBLE_TRY(report_.recipe, fitted_recipe_text(candidates_.spec, space_, chosen.choice, options_.recipe.source,
                                                  candidates_.bits_step, options_.cache.empty() ? "" : chosen.cache,
                                                  options_.name, summary));
    NIBBLE_DO(expect_activations());
    report_.spec = candidates_.spec;
    report_.context = options_.context;
    report_.tokens = options_.text_samples * (options_.text_length - 1);
    const int64_t used = options_.limit == Limit::memory ? chosen.bytes.memory() : chosen.bytes.files;
    if (options_.limit != Limit::bits) {
      report_.limit_bytes = options_.bytes;
      report_.left_bytes = options_.bytes - used;
    }
    report_.space = std::move(space_);
    return {};
  }

  // The recipe's inputs must be those that were measured with.
  Status expect_activations() const {
    NIBBLE_TRY(const Json source, parse_json(report_.recipe, "the recipe that was found"));
    NIBBLE_TRY(const Recipe recipe, parse_recipe(source, "the recipe that was found"));
    NIBBLE_TRY(const auto plans, plan_all(recipe, candidates_.spec));
    for (size_t i : space_.pools[0].variables) {
      const Variable& variable = space_.variables[i];
      for (const SitePlan& site : plans[static_cast<size_t>(variable.block)])
        for (const LinearPlan& linear : site.linears) {
          if (std::find(variable.roles.begin(), variable.roles.end(), linear.role) == variable.roles.end()) continue;
          const LinearPlan& measured =
              candidates_.plan_of(static_cast<size_t>(report_.chosen.choice[i]), variable.block, linear.role);
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
  Candidates& candidates_;
  FitBudget& budget_;
  FitMeasuring& measuring_;
  Space space_;
  Losses losses_;  // with those that are guessed
  FitAverages averages_;
  FitReport& report_;
};

}  // namespace

Result<FitReport> run_fit(const FitOptions& asked, ThreadPool& pool) {
  const auto start = std::chrono::steady_clock::now();
  FitOptions options = asked;
  FitReport report;
  NIBBLE_TRY(Candidates candidates, open_candidates(options));
  NIBBLE_TRY(FitBudget budget, FitBudget::make(options, candidates, pool));
  NIBBLE_TRY(Space space, budget.make_space());
  NIBBLE_DO(budget.expect_possible(space));
  NIBBLE_TRY(FitMeasuring measuring, FitMeasuring::open(options, candidates, budget, report, pool));
  NIBBLE_DO(Fitter(options, candidates, budget, measuring, std::move(space), report).run());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

Result<Fidelity> measure_written(const FitOptions& asked, const fs::path& folder, ThreadPool& pool) {
  FitOptions options = asked;
  NIBBLE_TRY(const auto source, open_original(options));
  NIBBLE_TRY(const Model original, Model::load(*source, {}, pool));
  NIBBLE_TRY(const Samples text, text_of(options, original, pool));
  NIBBLE_TRY(const Model written, Model::load(folder, {}, pool));
  ScoredText scored;
  scored.ids = text.tokens;
  for (int64_t i = 0; i < text.count; ++i) scored.passages.push_back({i * text.length, text.length, 1});
  ModelLogits expected(original, scored, pool), found(written, scored, pool);
  LogitSource* const candidates[] = {&found};
  NIBBLE_TRY(const auto compared, compare_logits(expected, candidates, pool));
  return Fidelity{compared[0].mean_kl.value, std::log(compared[0].candidate_perplexity)};
}

}  // namespace nibble::search
