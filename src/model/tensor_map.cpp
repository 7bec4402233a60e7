#include "model/tensor_map.h"

#include <algorithm>

namespace nibble {
namespace {

void expect(std::vector<ExpectedTensor>& tensors, const std::string& name, std::vector<int64_t> shape) {
  const auto same = [&](const ExpectedTensor& tensor) { return tensor.name == name; };
  if (std::none_of(tensors.begin(), tensors.end(), same)) tensors.push_back({name, std::move(shape)});
}

NormNames norm_names(const Spec& spec, const std::string& stem, NormWeight BlockWeights::*norm) {
  const NormParts parts = norm_parts_of(spec);
  return {norm, parts.gain ? stem + ".weight" : "", parts.bias ? stem + ".bias" : ""};
}

void add_norm(const Spec& spec, BlockMap& map, NormNames names) {
  if (!names.gain.empty()) expect(map.tensors, names.gain, {spec.hidden});
  if (!names.bias.empty()) expect(map.tensors, names.bias, {spec.hidden});
  map.norms.push_back(std::move(names));
}

void add_linear(const Spec& spec, BlockMap& map, const std::string& prefix, Role role, const Slice& slice) {
  const std::string stem = prefix + std::string(slice.stem);
  const bool bias = spec.bias[static_cast<size_t>(role)];
  map.linears.push_back({role, stem + ".weight", bias ? stem + ".bias" : "", slice.rows});
  expect(map.tensors, stem + ".weight", {slice.rows.total, shape_of(spec, role).columns});
  if (bias) expect(map.tensors, stem + ".bias", {slice.rows.total});
}

std::string_view stem_of(const Layout& layout, Global linear) {
  switch (linear) {
    case Global::embedding: return layout.embedding;
    case Global::head: return {};
    case Global::project_in: return layout.project_in;
    case Global::project_out: return layout.project_out;
  }
  return {};
}

}  // namespace

std::string embedding_tensor(const Layout& layout, std::string_view base) {
  return fmt::format("{}{}.weight", base, layout.embedding);
}

BlockMap block_map(const Spec& spec, const Layout& layout, std::string_view base, int64_t index) {
  const std::string prefix = fmt::format("{}{}{}.", base, layout.blocks, index);
  BlockMap map;
  add_norm(spec, map, norm_names(spec, prefix + std::string(layout.attention_norm), &BlockWeights::attention_norm));
  if (!layout.mlp_norm.empty())
    add_norm(spec, map, norm_names(spec, prefix + std::string(layout.mlp_norm), &BlockWeights::mlp_norm));
  for (Role role : kAllRoles) {
    const Slice& slice = layout.linears[static_cast<size_t>(role)];
    if (!slice.stem.empty()) add_linear(spec, map, prefix, role, slice);
  }
  return map;
}

GlobalMap global_map(const Spec& spec, const Layout& layout, std::string_view base) {
  GlobalMap map;
  for (Global linear : globals_of(spec)) {
    const Shape shape = shape_of(spec, linear);
    const std::string name =
        linear == Global::head ? std::string(kHeadTensor) : fmt::format("{}{}.weight", base, stem_of(layout, linear));
    map.linears.push_back({linear, name});
    expect(map.tensors, name, {shape.rows, shape.columns});
  }
  if (const int64_t rows = position_rows_of(spec); rows > 0) {
    map.positions = fmt::format("{}{}.weight", base, layout.positions);
    expect(map.tensors, map.positions, {rows, spec.hidden});
  }
  const NormParts parts = norm_parts_of(spec);
  if (spec.final_norm && parts.gain) {
    map.final_gain = fmt::format("{}{}.weight", base, layout.final_norm);
    expect(map.tensors, map.final_gain, {spec.hidden});
  }
  if (spec.final_norm && parts.bias) {
    map.final_bias = fmt::format("{}{}.bias", base, layout.final_norm);
    expect(map.tensors, map.final_bias, {spec.hidden});
  }
  return map;
}

}  // namespace nibble
