#include "bench/model.h"

#include <algorithm>

#include "bench/cases.h"

namespace nibble::bench {
namespace {

Unit& unit_of(const PackedLinear& layer, int64_t tokens, Machine& machine) {
  const LinearRow& row = layer.row_for(tokens);
  return machine.unit_for(level_of(row), arithmetic_of(row));
}

double operations_per_token(const PackedLinear& layer) {
  return 2.0 * static_cast<double>(layer.outputs()) * static_cast<double>(layer.inputs());
}

}  // namespace

template <class Visit>
void ModelRoof::each_linear(const Pass& pass, Visit visit) const {
  const Spec& spec = model_.spec();
  const std::vector<Role>& attends = sites_of(spec)[0].roles;
  for (int64_t layer = 0; layer < spec.layers; ++layer)
    for (Role role : kAllRoles) {
      const auto& linear = model_.block(layer).linears[static_cast<size_t>(role)];
      const bool all = layer + 1 < spec.layers || std::find(attends.begin(), attends.end(), role) != attends.end();
      if (linear) visit(*linear, all ? pass.tokens : pass.logits);
    }
}

double ModelRoof::cache_bytes_per_position() const {
  const Spec& spec = model_.spec();
  double bits = 0;
  for (int64_t layer = 0; layer < spec.layers; ++layer) bits += cache_bits(model_.attention(layer), spec.head_dim);
  return bits / 4 * static_cast<double>(spec.kv_heads * spec.head_dim);
}

void ModelRoof::probe(const Pass& pass) {
  std::vector<Unit*> units;
  each_linear(pass, [&](const PackedLinear& layer, int64_t tokens) {
    Unit* const unit = &unit_of(layer, tokens, machine_);
    if (std::find(units.begin(), units.end(), unit) == units.end()) units.push_back(unit);
  });
  for (Unit* unit : units) machine_.probe(*unit);
  machine_.probe_reading();
}

double ModelRoof::least_seconds(const Pass& pass) const {
  double computing = 0, bytes = cache_bytes_per_position() * static_cast<double>(pass.positions);
  const auto add = [&](const PackedLinear& layer, int64_t tokens) {
    if (tokens == 0) return;
    const double operations = operations_per_token(layer) * static_cast<double>(tokens);
    computing += operations / unit_of(layer, tokens, machine_).rates.recent();
    bytes += static_cast<double>(layer.bytes());
  };
  each_linear(pass, add);
  add(model_.head(), pass.logits);
  return std::max(computing, bytes / machine_.bandwidth_now());
}

}  // namespace nibble::bench
