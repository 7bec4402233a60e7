#include "search/measurements.h"

#include <algorithm>

#include "core/hash.h"
#include "search/knapsack.h"

namespace nibble::search {
namespace {

// A base's name in the log.
std::string name_of_base(const Space& space, const std::optional<Choice>& base) {
  if (!base) return "";
  std::string text = id_of(space);
  for (int number : *base) text += fmt::format(",{}", number);
  return sha256(text).substr(0, 16);
}

ChannelCounts counts_of(std::span<const uint8_t> widths) {
  ChannelCounts out(widths.empty() ? 0 : 8);
  for (const uint8_t width : widths) ++out[width - 1u];
  return out;
}

bool is_open(const Space& space, const Variable& variable) { return space.candidates(variable).size() > 1; }

}  // namespace

Limits limits_of(const Space& space) {
  Limits out;
  for (const Pool& pool : space.pools) out.push_back(pool.limit);
  return out;
}

Choice best_choice(const Space& space, const Losses& losses, const Limits& limits) {
  Choice out(space.variables.size(), 0);
  for (size_t p = 0; p < space.pools.size(); ++p) {
    const Pool& pool = space.pools[p];
    std::vector<OptionClass> classes;
    for (size_t i : pool.variables) {
      OptionClass options;
      for (size_t k = 0; k < losses[i].size(); ++k)
        options.push_back({space.cost(pool, i, static_cast<int>(k)), losses[i][k]});
      classes.push_back(std::move(options));
    }
    const auto numbers = solve_knapsack(classes, limits[p] ? *limits[p] - pool.fixed_bits : INT64_MAX);
    NIBBLE_CHECK(numbers.has_value());  // make_space has seen that the budget is possible
    for (size_t j = 0; j < numbers->size(); ++j) out[pool.variables[j]] = (*numbers)[j];
  }
  return out;
}

double sum_of(const Losses& losses, const Choice& choice) {
  double sum = 0;
  for (size_t i = 0; i < choice.size(); ++i) sum += losses[i][static_cast<size_t>(choice[i])];
  return sum;
}

struct Measurements::Around {
  std::string name;
  std::optional<Choice> choice;
  double kl = 0;
  std::vector<TriedBlock> blocks;
};

Measurements::Measurements(const Space& space, const Model& model, Layers& layers, Yardstick& yardstick, Log& log,
                           ThreadPool& pool)
    : space_(&space), model_(&model), layers_(&layers), yardstick_(&yardstick), log_(&log), pool_(&pool) {
  int64_t widest = -1, block = 0;
  const auto weights = std::find_if(space.variables.begin(), space.variables.end(),
                                    [](const Variable& v) { return v.operand == Operand::weights; });
  for (size_t i = 0; i < space.palette.weights.size(); ++i)
    if (weights->bits[i] > widest && !space.palette.weights[i].is_float()) {
      widest = weights->bits[i];
      carrier_ = static_cast<int>(i);
    }
  const Spec& spec = model.spec();
  for (Role role : kAllRoles) block += shape_of(spec, role).rows * shape_of(spec, role).columns;
  head_ = static_cast<double>(spec.vocabulary * spec.hidden) / static_cast<double>(block);
}

std::string Measurements::format_of(const Variable& variable, int candidate) const {
  return candidate == kAsStored ? "f32" : space_->name(variable, candidate);
}

std::string Measurements::base_of(const std::string& around, const Variable& variable) const {
  if (!around.empty() || variable.operand != Operand::activations || carrier_ == kAsStored) return around;
  return "weights " + to_string(space_->palette.weights[static_cast<size_t>(carrier_)]);
}

double Measurements::work_of_trial() const { return static_cast<double>(model_->spec().layers) + head_; }

double Measurements::work_of_losses(const std::optional<Choice>& base) const {
  const std::string around = name_of_base(*space_, base);
  double work = 0;
  for (const Variable& variable : space_->variables) {
    if (!is_open(*space_, variable)) continue;
    const double each = static_cast<double>(model_->spec().layers - variable.block) + head_;
    const int first = variable.operand == Operand::activations ? kAsStored : 0;
    for (int k = first; k < static_cast<int>(space_->candidates(variable).size()); ++k)
      if (!log_->single(base_of(around, variable), variable.name, format_of(variable, k))) work += each;
  }
  return work;
}

void Measurements::told(double work, const std::string& what) {
  if (meter_) meter_->advance(work, what);
}

Result<Fidelity> Measurements::trial(const Choice& choice, const std::string& study, bool again) {
  std::optional<Fidelity> found = log_->trial(choice);
  if (found) {
    ++reused_;
    const auto same = [&](const LoggedTrial& trial) { return trial.study == study && trial.choice == choice; };
    if (!again && std::any_of(log_->trials().begin(), log_->trials().end(), same)) return *found;
  } else {
    ++measured_;
    States states = yardstick_->copy(yardstick_->before_first_block());
    layers_->begin_model();
    for (int64_t b = 0; b < model_->spec().layers; ++b) {
      NIBBLE_TRY(const TriedBlock block, layers_->block(b, setting_of(*space_, choice, b), *pool_));
      yardstick_->run_block(block.linears, block.attention, states, *pool_);
    }
    layers_->end_model();
    NIBBLE_TRY(found, yardstick_->measure(states, *pool_));
  }
  NIBBLE_DO(log_->add_trial({study, choice, *found}, space_->budget_bits(choice)));
  told(work_of_trial(), fmt::format("model {}, {}, {:.3f} bits, KL {:.5f}", log_->trials().size(),
                                    study.substr(0, study.find(' ')), space_->budget_bits(choice), found->kl));
  return *found;
}

Result<Fidelity> Measurements::attended(std::span<const AttentionFormats> attention, const std::string& name) {
  const std::string variable = "attention";
  if (const auto known = log_->single("", variable, name)) {
    ++reused_;
    return *known;
  }
  ++measured_;
  States states = yardstick_->copy(yardstick_->before_first_block());
  for (int64_t b = 0; b < model_->spec().layers; ++b)
    yardstick_->run_block(model_->block(b), attention[static_cast<size_t>(b)], states, *pool_);
  NIBBLE_TRY(const Fidelity measured, yardstick_->measure(states, *pool_));
  NIBBLE_DO(log_->add_single("", variable, name, measured));
  told(work_of_trial(), fmt::format("attention, {}", name));
  return measured;
}

Result<Losses> Measurements::losses(const std::optional<Choice>& base) {
  Around around{name_of_base(*space_, base), base, 0, {}};
  if (base) {
    NIBBLE_TRY(const Fidelity measured, trial(*base, "knapsack"));
    around.kl = measured.kl;
  }
  const int64_t layers = model_->spec().layers;
  if (base) layers_->begin_model();
  for (int64_t b = 0; b < layers; ++b) {
    if (!base) {
      around.blocks.push_back({model_->block(b), {}});
      continue;
    }
    NIBBLE_TRY(TriedBlock block, layers_->block(b, setting_of(*space_, *base, b), *pool_));
    around.blocks.push_back(std::move(block));
  }
  if (base) layers_->end_model();
  Losses out(space_->variables.size());
  States before = yardstick_->copy(yardstick_->before_first_block());
  const int last = last_block(around.name);
  for (int64_t b = 0; b < layers; ++b) {
    NIBBLE_DO(block_losses(around, b, before, out));
    const TriedBlock& block = around.blocks[static_cast<size_t>(b)];
    if (b < last) yardstick_->run_block(block.linears, block.attention, before, *pool_);
  }
  return out;
}

// The last block of which something is not in the log: the states after it are not needed.
int Measurements::last_block(const std::string& around) const {
  int last = -1;
  for (const Variable& variable : space_->variables)
    for (int k = 0; k < static_cast<int>(space_->candidates(variable).size()); ++k)
      if (!log_->single(base_of(around, variable), variable.name, format_of(variable, k)))
        last = static_cast<int>(variable.block);
  return last;
}

bool Measurements::has_baseline(const Around& around, const Variable& variable) {
  if (around.choice || variable.operand != Operand::activations) return false;
  if (!carrier_runs_alone_) carrier_runs_alone_ = layers_->runs(carrier_, kAsStored, *pool_);
  return *carrier_runs_alone_;
}

Status Measurements::block_losses(const Around& around, int64_t block, const States& before, Losses& out) {
  for (size_t i = 0; i < space_->variables.size(); ++i) {
    const Variable& variable = space_->variables[i];
    if (variable.block != block) continue;
    out[i].assign(space_->candidates(variable).size(), 0);
    const bool idle = variable.operand == Operand::activations && carrier_ == kAsStored && !around.choice;
    if (!is_open(*space_, variable) || idle) continue;
    double from = around.kl;
    if (has_baseline(around, variable)) {
      NIBBLE_TRY(const Fidelity alone, single(around, i, kAsStored, before));
      from = alone.kl;
    }
    for (size_t k = 0; k < out[i].size(); ++k) {
      if (around.choice && (*around.choice)[i] == static_cast<int>(k)) continue;
      NIBBLE_TRY(const Fidelity measured, single(around, i, static_cast<int>(k), before));
      out[i][k] = measured.kl - from;
    }
  }
  return {};
}

Result<Fidelity> Measurements::single(const Around& around, size_t variable, int candidate, const States& before) {
  const Variable& of = space_->variables[variable];
  const std::string format = format_of(of, candidate);
  if (const auto known = log_->single(base_of(around.name, of), of.name, format)) {
    ++reused_;
    return *known;
  }
  ++measured_;
  ChannelCounts channels;
  NIBBLE_TRY(const Fidelity measured, run_single(around, of, candidate, before, channels));
  NIBBLE_DO(log_->add_single(base_of(around.name, of), of.name, format, measured, channels));
  told(static_cast<double>(model_->spec().layers - of.block) + head_,
       fmt::format("block {} of {}, {} {}", of.block + 1, model_->spec().layers, of.name, format));
  return measured;
}

// Weights in the type that they have anyway.
bool Measurements::is_original(const Variable& variable, int candidate) const {
  if (variable.operand != Operand::weights || candidate == kAsStored) return false;
  return model_->block(variable.block)[variable.roles[0]].shape().weights ==
         space_->palette.weights[static_cast<size_t>(candidate)];
}

BlockSetting Measurements::changed(const Around& around, const Variable& variable, int candidate) const {
  BlockSetting setting;
  if (around.choice) setting = setting_of(*space_, *around.choice, variable.block);
  if (!around.choice && variable.operand == Operand::activations)
    for (Role role : variable.roles) setting.weights[static_cast<size_t>(role)] = carrier_;
  setting.set(*space_, variable, candidate);
  return setting;
}

Result<Fidelity> Measurements::run_single(const Around& around, const Variable& variable, int candidate,
                                          const States& before, ChannelCounts& channels) {
  if (!around.choice && is_original(variable, candidate)) return Fidelity{0, yardstick_->reference_nll()};
  NIBBLE_TRY(const TriedBlock block, layers_->block(variable.block, changed(around, variable, candidate), *pool_));
  if (variable.operand == Operand::weights) channels = counts_of(block.linears[variable.roles[0]].shape().widths);
  States states = yardstick_->copy(before);
  yardstick_->run_block(block.linears, block.attention, states, *pool_);
  for (size_t b = static_cast<size_t>(variable.block) + 1; b < around.blocks.size(); ++b)
    yardstick_->run_block(around.blocks[b].linears, around.blocks[b].attention, states, *pool_);
  return yardstick_->measure(states, *pool_);
}

}  // namespace nibble::search
