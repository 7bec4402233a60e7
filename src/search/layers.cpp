#include "search/layers.h"

#include <algorithm>
#include <set>

#include "core/memory.h"
#include "quantize/pipeline/estimate.h"

namespace nibble::search {
namespace {

constexpr int64_t kPartOfMemory = 4;

Json recipe_source(std::string_view weights, std::string_view activations, const Json& steps) {
  Json source = Json::object();
  source["name"] = "search";
  source["weights"] = weights;
  source["activations"] = activations;
  source["steps"] = steps;
  return source;
}

std::string format_name(const std::vector<NumberFormat>& formats, int number) {
  return number == kAsStored ? "f32" : to_string(formats[static_cast<size_t>(number)]);
}

// Some linear of the site leaves open how many bits a column has.
bool gives_bits(const SitePlan& plan) {
  return std::any_of(plan.linears.begin(), plan.linears.end(),
                     [](const LinearPlan& linear) { return linear.weights.bits == 0; });
}

// A float layer in another float type.
Result<LinearWeight> converted(const FloatLayer& layer, Levels levels) {
  Bytes values(layer.values.size() * (levels == Levels::f32 ? 4 : 2));
  if (const auto misfit = write_floats(layer.values, levels, values.data()))
    return fail(ErrorCode::failure, "weights of {}: {} does not fit a 16-bit float", layer.name, *misfit);
  return float_linear(layer.rows, layer.columns, levels, std::move(values), layer.bias);
}

}  // namespace

void BlockSetting::set(const Space& space, const Variable& variable, int candidate) {
  if (variable.operand == Operand::attention) {
    operand_of(attention, variable.attention) =
        candidate == kAsStored ? NumberFormat() : space.palette.attention[static_cast<size_t>(candidate)];
    return;
  }
  auto& numbers = variable.operand == Operand::weights ? weights : activations;
  for (Role role : variable.roles) numbers[static_cast<size_t>(role)] = candidate;
}

BlockSetting setting_of(const Space& space, const Choice& choice, int64_t block) {
  BlockSetting out;
  if (!space.attention.empty()) out.attention = space.attention[static_cast<size_t>(block)];
  for (size_t i = 0; i < choice.size(); ++i)
    if (space.variables[i].block == block) out.set(space, space.variables[i], choice[i]);
  return out;
}

Layers::Layers(const ModelSource& source, const Model& model, const Palette& palette, Json steps)
    : source_(&source),
      model_(&model),
      palette_(&palette),
      steps_(std::move(steps)),
      room_(available_memory() / kPartOfMemory) {}

Result<Layers> Layers::make(const ModelSource& source, const Model& model, const Palette& palette, const Json& steps) {
  Layers layers(source, model, palette, steps);
  NIBBLE_TRY(const Recipe recipe, parse_recipe(recipe_source("int8:row", "f32", steps), "the search's recipe"));
  const Json& read = recipe.source["steps"];
  if (std::any_of(read.begin(), read.end(), [](const Json& step) { return step.contains("observe"); }))
    return fail(ErrorCode::usage, "weights are rounded without calibration while searching, but a step observes");
  if (!recipe.model_steps.empty())
    return fail(ErrorCode::usage, "a search looks at the model as it is, but a step of the recipe changes all of it");
  return layers;
}

Result<Layers> Layers::make(const ModelSource& source, const Model& model, const Palette& palette,
                            std::vector<Recipe> recipes, Observer* observer, const SensitivityFile* sensitivities) {
  for (const Recipe& recipe : recipes)
    if (!recipe.model_steps.empty())
      return fail(ErrorCode::usage,
                  "a search looks at the model as it is, but a step of the recipe {} changes all of it", recipe.name);
  Layers layers(source, model, palette, Json::array());
  layers.recipes_ = std::move(recipes);
  layers.observer_ = observer;
  layers.sensitivities_ = sensitivities;
  return layers;
}

Result<Layers::Planned> Layers::plan(int64_t block, Role role, int weights, int activations) const {
  std::vector<SitePlan> sites;
  if (recipes_.empty()) {
    const NumberFormat& format = palette_->weights[static_cast<size_t>(weights)];
    // Float weights read float inputs.
    const std::string inputs = format.is_float() ? "f32" : format_name(palette_->activations, activations);
    NIBBLE_TRY(const Recipe recipe, parse_recipe(recipe_source(to_string(format), inputs, steps_), "search"));
    NIBBLE_TRY(sites, plan_block(recipe, source_->spec(), block));
  } else {
    NIBBLE_TRY(sites, plan_block(recipes_[static_cast<size_t>(weights)], source_->spec(), block));
  }
  Planned out;
  out.block = block;
  for (const SitePlan& site : sites) out.observed.push_back(site.statistics());
  for (size_t number = 0; number < sites.size(); ++number)
    for (const LinearPlan& linear : sites[number].linears)
      if (linear.role == role) {
        out.number = number;
        out.linear = linear;
        out.site = sites[number];
        return out;
      }
  return fail(ErrorCode::failure, "block {} has no {}", block, name_of(role));
}

void Layers::begin_model() {
  left_over_ = 0;
  site_.bits.clear();
}

void Layers::end_model() {
  left_over_.reset();
  site_.bits.clear();
}

// The linears that leave a column's bits open, with their weights.
void Layers::open(const Planned& planned, SiteWork& work, ThreadPool& pool) {
  work.open = open_linears(planned.site, source_->spec());
  auto next = work.open.begin();
  for (const LinearPlan& linear : planned.site.linears)
    if (shares_widths(linear))
      (next++)->layer = [this, &pool, block = planned.block, role = linear.role]() -> Result<FloatLayer> {
        NIBBLE_DO(read(block));
        return float_layer(weights_[role], linear_name(block, role), pool);
      };
}

Result<SiteWork*> Layers::prepare_site(const Planned& planned, ThreadPool& pool) {
  const SitePlan& plan = planned.site;
  std::string input = to_string(plan.activations()), bits;
  const bool is_open = gives_bits(plan);
  if (is_open) {
    for (const LinearPlan& linear : plan.linears) input.append(linear.weights.bits == 0 ? " open" : " closed");
    for (const PlannedStep& step : plan.steps)
      (step.step->gives_bits(open_columns()) ? bits : input).append(dump_json(step.parameters));
  }
  const std::tuple key{planned.block, planned.number, input};
  if (site_.key == key && (!is_open || site_.bits == bits)) return &site_.work;
  const bool known = site_.key == key;
  if (!known) site_ = CurrentSite();
  SiteWork work;
  work.name = plan.name;
  work.inputs = plan.inputs;
  work.hidden = source_->spec().hidden;
  work.sparse24 = plan.sparse24();
  work.activations = plan.activations();
  work.shared = std::move(site_.work.shared);
  work.left_over = left_over_.value_or(0);
  site_.work = std::move(work);
  open(planned, site_.work, pool);
  if (observer_ != nullptr) {
    if (!known) {
      NIBBLE_TRY(site_.statistics, observer_->take(planned.block, planned.number, planned.observed, pool));
    }
    site_.work.statistics = &site_.statistics;
  }
  site_.key = std::tuple{int64_t{-1}, size_t{0}, std::string()};  // unless all steps succeed
  for (const PlannedStep& step : plan.steps) NIBBLE_DO(step.step->apply_to_site(site_.work, pool));
  if (site_.work.statistics != nullptr) nibble::rotate(site_.statistics, site_.work.kept, site_.work.rotation, pool);
  if (left_over_) left_over_ = site_.work.left_over;
  site_.key = key;
  site_.bits = bits;
  return &site_.work;
}

Result<LinearWeight> Layers::solve(const Planned& planned, const FloatLayer& original, ThreadPool& pool) {
  const LinearPlan& plan = planned.linear;
  if (!plan.quantized()) return converted(original, plan.weights.levels);
  NIBBLE_TRY(SiteWork* const site, prepare_site(planned, pool));
  std::optional<FloatLayer> turned;
  if (site->rotation > 0) {
    turned = original;
    rotate(*turned, site->kept, site->rotation, pool);
  }
  const FloatLayer& layer = turned ? *turned : original;
  LinearWork work{*site, layer, plan.weights, plan.activations, {}, -1};
  if (shares_widths(plan)) work.widths = site->widths;
  if (plan.reads_sensitivities() && sensitivities_ != nullptr) {
    NIBBLE_TRY(work.sensitivities, sensitivities_->read(planned.block, plan.role));
  }
  for (const PlannedStep& step : plan.steps) NIBBLE_DO(step.step->apply_to_linear(work, pool));
  NIBBLE_DO(work.solved->validate(plan.name));
  return std::move(*work.solved);
}

Status Layers::read(int64_t block) {
  if (read_ == block) return {};
  NIBBLE_TRY(weights_, source_->block(block));
  read_ = block;
  return {};
}

Result<const FloatLayer*> Layers::original(int64_t block, Role role, ThreadPool& pool) {
  const std::string name = linear_name(block, role);
  if (layer_.name == name) return &layer_;
  NIBBLE_DO(read(block));
  NIBBLE_TRY(layer_, float_layer(weights_[role], name, pool));
  return &layer_;
}

Result<PackedLinear> Layers::linear(const Key& key, ThreadPool& pool) {
  const auto& [block, role, weights, activations] = key;
  if (weights == kAsStored) return model_->block(block)[role];
  const auto found = kept_.find(key);
  if (found != kept_.end() && !left_over_) return found->second;
  NIBBLE_TRY(const Planned planned, plan(block, role, weights, activations));
  // Of a model that is being made, what it is depends on the sites before.
  const bool own = left_over_ && gives_bits(planned.site);
  if (found != kept_.end() && !own) return found->second;
  NIBBLE_TRY(const FloatLayer* layer, original(block, role, pool));
  NIBBLE_TRY(const LinearWeight solved, solve(planned, *layer, pool));
  NIBBLE_TRY(PackedLinear packed, PackedLinear::pack(solved, model_->isa(), pool));
  if (!own && packed.bytes() <= room_) {
    room_ -= packed.bytes();
    kept_.emplace(key, packed);
  }
  return packed;
}

Result<TriedBlock> Layers::block(int64_t index, const BlockSetting& setting, ThreadPool& pool) {
  PackedBlock out;
  const PackedBlock& floats = model_->block(index);
  out.attention_norm = floats.attention_norm;
  out.mlp_norm = floats.mlp_norm;
  for (const Site& site : sites_of(source_->spec()))
    for (Role role : site.roles) {
      const auto at = static_cast<size_t>(role);
      auto packed = linear({index, role, setting.weights[at], setting.activations[at]}, pool);
      if (!packed) return fail(packed.error().code, "{}: {}", linear_name(index, role), packed.error().message);
      out.linears[at] = std::move(*packed);
    }
  find_plans(out);
  return TriedBlock{std::move(out), setting.attention};
}

// One row of small weights is enough to find a kernel.
Status Layers::try_pair(Role role, int weights, int activations, ThreadPool& pool) {
  NIBBLE_TRY(const Planned planned, plan(0, role, weights, activations));
  FloatLayer layer{planned.linear.name, 1, shape_of(source_->spec(), role).columns, {}, {}};
  for (int64_t k = 0; k < layer.columns; ++k) layer.values.push_back(static_cast<float>(k % 7) - 3.0f);
  NIBBLE_TRY(const LinearWeight solved, solve(planned, layer, pool));
  NIBBLE_DO(PackedLinear::pack(solved, model_->isa(), pool));
  return {};
}

Status Layers::check_pairs(ThreadPool& pool) {
  std::set<int64_t> seen;
  for (Role role : kAllRoles) {
    const int64_t columns = shape_of(source_->spec(), role).columns;
    if (columns == 0 || !seen.insert(columns).second) continue;
    for (int w = 0; w < static_cast<int>(palette_->weights.size()); ++w)
      for (int a = 0; a < static_cast<int>(palette_->activations.size()); ++a)
        if (const Status tried = try_pair(role, w, a, pool); !tried)
          return fail(tried.error().code, "weights {} with activations {} do not run on {} inputs: {}",
                      format_name(palette_->weights, w), format_name(palette_->activations, a), columns,
                      tried.error().message);
  }
  return {};
}

bool Layers::runs(int weights, int activations, ThreadPool& pool) {
  return try_pair(Role::q, weights, activations, pool).has_value();
}

}  // namespace nibble::search
