#include "quantize/recipe/plan.h"

#include <algorithm>

#include "kernels/linear.h"
#include "model/model.h"
#include "quantize/recipe/formats.h"
#include "quantize/solve/allocate.h"

namespace nibble {
namespace {

// What holds for one linear after all exceptions and overrides.
struct Settings {
  NumberFormat weights, activations;
  Json steps;  // as in the recipe, with changed parameters
};

// The linear that settings are looked up for.
struct Target {
  const Spec& spec;
  int64_t block;
  Role role;
  std::string name;
};

bool lists(const Json& entry, const char* key, std::string_view name) {
  if (!entry.contains(key)) return true;
  return std::any_of(entry[key].begin(), entry[key].end(), [&](const Json& v) { return v == std::string(name); });
}

bool matches(const Json& entry, const Spec& spec, int64_t block) {
  return lists(entry, "families", spec.family) &&
         (!entry.contains("blocks") || matches_blocks(entry["blocks"], block, spec.layers));
}

bool matches(const Json& entry, const Target& target) {
  return lists(entry, "roles", name_of(target.role)) && matches(entry, target.spec, target.block);
}

// Weights that cannot be multiplied with the activations so far read f32, unless the entry itself says otherwise.
Status apply_formats(const Json& entry, Settings& settings, const std::string& where) {
  if (entry.contains("weights")) {
    NIBBLE_TRY(settings.weights, parse_weights(entry["weights"].get<std::string>(), where));
    if (!can_multiply(settings.weights, settings.activations)) settings.activations = NumberFormat();
  }
  if (entry.contains("activations")) {
    NIBBLE_TRY(settings.activations, parse_activations(entry["activations"].get<std::string>(), where));
  }
  return {};
}

Json* parameters_of(Json& step) {
  for (auto item = step.begin(); item != step.end(); ++item)
    if (item.key() != "id") return &item.value();
  return nullptr;
}

void apply_set(const Json& set, Settings& settings) {
  for (Json& step : settings.steps)
    if (const auto id = step["id"].get<std::string>(); set.contains(id)) {
      Json* parameters = parameters_of(step);
      *parameters = with_parameters(std::move(*parameters), set[id]);
    }
}

Result<Settings> settings_of(const Recipe& recipe, const Target& target) {
  const std::string where = fmt::format("recipe {}, {}", recipe.name, target.name);
  Settings settings;
  settings.steps = recipe.source["steps"];
  NIBBLE_DO(apply_formats(recipe.source, settings, where));
  for (const Json& entry : recipe.source.value("except", Json::array())) {
    if (!matches(entry, target)) continue;
    NIBBLE_DO(apply_formats(entry, settings, where));
    if (entry.contains("set")) apply_set(entry["set"], settings);
  }
  for (size_t i = 0; i < recipe.override_patterns.size(); ++i)
    if (recipe.override_patterns[i].matches(target.name))
      NIBBLE_DO(apply_formats(recipe.source["overrides"][i], settings, where));
  if (!can_multiply(settings.weights, settings.activations))
    return fail(ErrorCode::usage, "{}: weights in {} are not multiplied with activations in {}", where,
                to_string(settings.weights), to_string(settings.activations));
  return settings;
}

Result<std::vector<PlannedStep>> steps_of(const Settings& settings, const std::string& where) {
  std::vector<PlannedStep> steps;
  for (Json source : settings.steps) {
    PlannedStep step;
    step.id = source["id"].get<std::string>();
    for (auto item = source.begin(); item != source.end(); ++item)
      if (item.key() != "id") step.row = find_step(item.key());
    step.parameters = std::move(*parameters_of(source));
    NIBBLE_TRY(step.step, read_step(*step.row, step.parameters, fmt::format("{}, step {}", where, step.id)));
    steps.push_back(std::move(step));
  }
  NIBBLE_DO(check_sequence(steps, where));
  return steps;
}

std::vector<PlannedStep> of_scope(const std::vector<PlannedStep>& steps, Scope scope) {
  std::vector<PlannedStep> out;
  std::copy_if(steps.begin(), steps.end(), std::back_inserter(out),
               [&](const PlannedStep& step) { return step.row->scope == scope; });
  return out;
}

Status check_blocks(const LinearPlan& plan, int64_t inputs, const Recipe& recipe) {
  for (const NumberFormat& format : {plan.weights, plan.activations})
    if (format.is_block() && format.group > inputs)
      return fail(ErrorCode::usage, "recipe {}, {}: blocks of {} ({}) do not fit its {} inputs", recipe.name, plan.name,
                  format.group, to_string(format), inputs);
  return {};
}

// Integers times integers: the sum of what shares a scale must fit 32 bits. By column, scales belong to the input.
// Columns that a recipe keeps count, too, though packing takes them apart: how many there are is not known yet.
Status check_sums(const LinearPlan& plan, int64_t inputs, const std::string& where) {
  if (!plan.activations.is_integer()) return {};
  const NumberFormat& weights = plan.weights;
  const int64_t most = most_summed_inputs(weights, weights.bits == 0 ? kMostWidth : weights.bits, plan.activations);
  const int64_t summed = weights.sharing == Sharing::column ? inputs : std::min(weights.group_size(inputs), inputs);
  if (summed <= most) return {};
  const bool has_groups = !weights.is_learned() || weights.bits != 0;  // learned levels with open bits have none
  return fail(ErrorCode::usage,
              "{}: sums over {} of its {} inputs may exceed 32 bits with weights {} and activations {}; expected {} "
              "inputs at most, {}or activations {}",
              where, summed, inputs, to_string(weights), to_string(plan.activations), most,
              has_groups ? "groups of so many, " : "", weights.is_integer() ? "f32" : "bf16");
}

// Of weights that leave it open how many bits a column has: a step must say it, of columns that stay what they are.
Status check_widths(const LinearPlan& plan, const std::vector<PlannedStep>& steps, const std::string& where) {
  if (plan.weights.bits != 0) return {};
  const auto giving =
      std::find_if(steps.begin(), steps.end(), [&](const auto& s) { return s.step->gives_bits(plan.weights); });
  if (giving == steps.end())
    return fail(ErrorCode::usage, "{}: weights in {} leave open how many bits a column has, and no step says it", where,
                to_string(plan.weights));
  if (!plan.weights.is_learned()) return {};  // what gives them comes after all steps that change columns
  for (auto step = steps.begin(); step != steps.end(); ++step)
    if (step->step->turns() || (step->step->keeps() && step > giving))
      return fail(ErrorCode::usage, "{}: step {} gives bits to channels, and step {} {}", where, giving->id, step->id,
                  step->step->turns() ? "mixes them" : "takes some of them out afterwards; it must come before");
  return {};
}

Result<LinearPlan> plan_linear(const Recipe& recipe, const Target& target, std::vector<PlannedStep>& site_steps) {
  NIBBLE_TRY(const Settings settings, settings_of(recipe, target));
  LinearPlan plan;
  plan.role = target.role;
  plan.name = target.name;
  plan.weights = settings.weights;
  plan.activations = settings.activations;
  if (!plan.quantized()) return plan;
  NIBBLE_DO(check_blocks(plan, shape_of(target.spec, target.role).columns, recipe));
  const std::string where = fmt::format("recipe {}, {}", recipe.name, target.name);
  NIBBLE_DO(check_sums(plan, shape_of(target.spec, target.role).columns, where));
  NIBBLE_TRY(const auto steps, steps_of(settings, where));
  for (const PlannedStep& step : steps)
    NIBBLE_DO(step.step->check(plan.weights, plan.activations, shape_of(target.spec, target.role).columns,
                               fmt::format("{}, step {}", where, step.id)));
  NIBBLE_DO(check_widths(plan, steps, where));
  site_steps = of_scope(steps, Scope::site);
  plan.steps = of_scope(steps, Scope::linear);
  plan.sparse24 =
      std::any_of(plan.steps.begin(), plan.steps.end(), [](const PlannedStep& s) { return s.step->sparse24(); });
  if (plan.sparse24 && (plan.weights.is_learned() || plan.weights.bits == 0))
    return fail(ErrorCode::usage, "{}: a 2:4 pattern needs levels with a zero, which weights in {} have not{}", where,
                to_string(plan.weights), plan.weights.is_learned() ? "" : " in 1 bit");
  if (plan.sparse24 && plan.weights.sharing == Sharing::group && plan.weights.group % 4 != 0)
    return fail(ErrorCode::usage,
                "recipe {}, {}: a 2:4 pattern with weights {}: 4 must divide the size of the groups, so that no four "
                "columns have two scales",
                recipe.name, target.name, to_string(plan.weights));
  return plan;
}

// What differs between two linears that read one input; empty when nothing does.
std::string conflict(const LinearPlan& a, const std::vector<PlannedStep>& a_steps, const LinearPlan& b,
                     const std::vector<PlannedStep>& b_steps) {
  if (a.activations != b.activations)
    return fmt::format("activations {} and {}", to_string(a.activations), to_string(b.activations));
  for (size_t i = 0; i < a_steps.size(); ++i)
    if (a_steps[i].parameters != b_steps[i].parameters)
      return fmt::format("other parameters of step {}", a_steps[i].id);
  return "";
}

Result<SitePlan> plan_site(const Recipe& recipe, const Spec& spec, int64_t block, const Site& site) {
  SitePlan plan;
  plan.site = site;
  plan.name = fmt::format("blocks.{}.{}", block, site.name);
  plan.inputs = shape_of(spec, site.roles[0]).columns;
  const LinearPlan* first = nullptr;
  plan.linears.reserve(site.roles.size());
  for (Role role : site.roles) {
    std::vector<PlannedStep> steps;
    NIBBLE_TRY(LinearPlan linear, plan_linear(recipe, {spec, block, role, linear_name(block, role)}, steps));
    plan.linears.push_back(std::move(linear));
    const LinearPlan& added = plan.linears.back();
    if (!added.quantized()) continue;
    if (first == nullptr) {
      first = &added;
      plan.steps = std::move(steps);
    } else if (const std::string differs = conflict(*first, plan.steps, added, steps); !differs.empty()) {
      return fail(ErrorCode::usage, "recipe {}: {} and {} of {} read the same input, but the recipe gives them {}",
                  recipe.name, name_of(first->role), name_of(role), plan.name, differs);
    }
  }
  return plan;
}

Status apply_attention(const Json& entry, AttentionFormats& formats, const std::string& where) {
  if (!entry.contains("attention")) return {};
  for (const auto& item : entry["attention"].items()) {
    NIBBLE_TRY(operand_of(formats, item.key()),
               parse_planned_attention_format(item.key(), item.value().get<std::string>(), where));
  }
  return {};
}

}  // namespace

Result<AttentionFormats> attention_of_block(const Recipe& recipe, const Spec& spec, int64_t block) {
  const std::string where = fmt::format("recipe {}, attention of block {}", recipe.name, block);
  NIBBLE_TRY(AttentionFormats formats, with_cache({}, recipe.source.value("cache", "f32"), where));
  NIBBLE_DO(apply_attention(recipe.source, formats, where));
  for (const Json& entry : recipe.source.value("except", Json::array()))
    if (matches(entry, spec, block)) NIBBLE_DO(apply_attention(entry, formats, where));
  return formats;
}

Result<std::vector<AttentionFormats>> attention_of_recipe(const Recipe& recipe, const Spec& spec) {
  std::vector<AttentionFormats> out;
  for (int64_t block = 0; block < spec.layers; ++block) {
    NIBBLE_TRY(const AttentionFormats formats, attention_of_block(recipe, spec, block));
    out.push_back(formats);
  }
  return out;
}

Result<std::vector<AttentionFormats>> closed_attention_of_recipe(const Recipe& recipe, const Spec& spec) {
  NIBBLE_TRY(std::vector<AttentionFormats> out, attention_of_recipe(recipe, spec));
  if (std::none_of(out.begin(), out.end(), has_open_fractions)) return out;
  return fail(ErrorCode::usage,
              "recipe {}: attention in {} takes fractions from calibration text while a model is quantized; say them "
              "here, as in fixed8:f4",
              recipe.name, summary_of(out));
}

bool LinearPlan::reads_sensitivities() const {
  return weights.is_learned() && std::any_of(steps.begin(), steps.end(),
                                             [](const PlannedStep& step) { return step.step->needs_sensitivities(); });
}

unsigned SitePlan::statistics() const {
  unsigned statistics = kNoStatistics;
  for (const PlannedStep& step : steps) statistics |= step.step->observes();
  for (const LinearPlan& linear : linears)
    if (linear.quantized() && linear.activations.is_profiled()) statistics |= kAbsmax;
  return statistics;
}

bool SitePlan::sparse24() const {
  return std::any_of(linears.begin(), linears.end(), [](const LinearPlan& linear) { return linear.sparse24; });
}

bool SitePlan::turns() const {
  return std::any_of(steps.begin(), steps.end(), [](const PlannedStep& step) { return step.step->turns(); });
}

NumberFormat SitePlan::activations() const {
  for (const LinearPlan& linear : linears)
    if (linear.quantized()) return linear.activations;
  return {};
}

Result<std::vector<SitePlan>> plan_block(const Recipe& recipe, const Spec& spec, int64_t block) {
  std::vector<SitePlan> sites;
  for (const Site& site : sites_of(spec)) {
    NIBBLE_TRY(SitePlan plan, plan_site(recipe, spec, block, site));
    sites.push_back(std::move(plan));
  }
  return sites;
}

}  // namespace nibble
