#include "bench/model.h"

#include <algorithm>

#include "bench/cases.h"
#include "core/result.h"

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
  const auto visit_for = [&](const PackedLinear& layer, int64_t tokens) {
    if (tokens > 0) visit(layer, tokens);
  };
  for (int64_t layer = 0; layer < spec.layers; ++layer)
    for (Role role : kAllRoles) {
      const auto& linear = model_.block(layer).linears[static_cast<size_t>(role)];
      const bool all = layer + 1 < spec.layers || std::find(attends.begin(), attends.end(), role) != attends.end();
      if (linear) visit_for(*linear, all ? pass.tokens : pass.logits);
    }
  visit_for(model_.head(), pass.logits);
}

double ModelRoof::cache_bytes_per_position() const {
  const Spec& spec = model_.spec();
  double bits = 0;
  for (int64_t layer = 0; layer < spec.layers; ++layer) bits += cache_bits(model_.attention(layer), spec.head_dim);
  return bits / 4 * static_cast<double>(spec.kv_heads * spec.head_dim);
}

void ModelRoof::begin() {
  peaks_.clear();
  bandwidth_ = 0;
}

void ModelRoof::probe(const Pass& pass) {
  std::vector<Unit*> units;
  each_linear(pass, [&](const PackedLinear& layer, int64_t tokens) {
    Unit* const unit = &unit_of(layer, tokens, machine_);
    if (std::find(units.begin(), units.end(), unit) == units.end()) units.push_back(unit);
  });
  for (Unit* unit : units) peaks_[unit] = std::max(peaks_[unit], machine_.probe(*unit));
  bandwidth_ = std::max(bandwidth_, machine_.probe_reading());
}

double ModelRoof::least_seconds(const Pass& pass) const {
  double computing = 0, bytes = cache_bytes_per_position() * static_cast<double>(pass.positions);
  each_linear(pass, [&](const PackedLinear& layer, int64_t tokens) {
    const auto peak = peaks_.find(&unit_of(layer, tokens, machine_));
    NIBBLE_CHECK(peak != peaks_.end());
    computing += operations_per_token(layer) * static_cast<double>(tokens) / peak->second;
    bytes += static_cast<double>(layer.bytes());
  });
  return std::max(computing, bytes / bandwidth_);
}

}  // namespace nibble::bench
