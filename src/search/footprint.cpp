#include "search/footprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string_view>

#include "kernels/linear.h"
#include "model/globals.h"
#include "model/storage.h"
#include "quantize/pipeline/estimate.h"
#include "quantize/pipeline/head.h"
#include "quantize/solve/layer.h"
#include "runtime/sequence.h"
#include "search/variables.h"

namespace nibble::search {
namespace {

constexpr int64_t kTriedRows = 32;  // two panels of the layouts: their sizes grow by so many rows
constexpr int64_t kPrompt = 512;    // tokens that a prompt is read in at a time (engine/generate.h)
constexpr int64_t kStrideRoom =
    64;  // between the rows of a prepared input, so that they do not fall into the same cache sets
constexpr int64_t kAttentionScratch = int64_t{2} << 20;       // bytes for a thread
constexpr int64_t kHeaderOfShard = 52, kHeaderOfTensor = 88;  // JSON with a name, a type, a shape and two offsets

int64_t bytes_of(const NamedTensors& tensors) {
  int64_t sum = 0;
  for (const TensorView& tensor : tensors.tensors) sum += static_cast<int64_t>(tensor.bytes.size());
  return sum;
}

// The layer with every code zero, or every value. `widths`: of its dense columns, where they have their own.
LinearWeight empty_weight(const Shape& shape, const NumberFormat& weights, const NumberFormat& activations,
                          int64_t kept, bool bias, std::span<const uint8_t> widths) {
  std::vector<float> zeros(bias ? static_cast<size_t>(shape.rows) : 0);
  if (!weights.has_codes()) {
    Bytes values(static_cast<size_t>(shape.rows * shape.columns * weights.bits / 8));
    return float_linear(shape.rows, shape.columns, weights.levels, std::move(values), std::move(zeros));
  }
  FloatLayer layer{"", shape.rows, shape.columns, {}, std::move(zeros)};
  LayerForm form{weights, activations, {}, false};
  form.kept.resize(static_cast<size_t>(kept));
  std::iota(form.kept.begin(), form.kept.end(), 0);
  form.widths.assign(widths.begin(), widths.end());
  return empty_layer(layer, form);
}

}  // namespace

Result<PackedFacts> Packing::pack(const Layer& layer) {
  const LinearWeight weight =
      empty_weight(layer.shape, layer.weights, layer.activations, layer.kept, layer.bias, layer.widths);
  NIBBLE_TRY(const PackedLinear packed, PackedLinear::pack(weight, isa_, *pool_));
  const std::string_view kernel = packed.row_for(1).name;
  return PackedFacts{packed.bytes(), kernel.ends_with("__reference"), packed.explain(1)};
}

Result<PackedFacts> Packing::facts(const Layer& layer) {
  std::string key = fmt::format("{} {} {} {} {} {}", layer.shape.rows, layer.shape.columns, to_string(layer.weights),
                                to_string(layer.activations), layer.kept, layer.bias);
  for (int width = 1; width <= 8; ++width)
    key += fmt::format(" {}", std::count(layer.widths.begin(), layer.widths.end(), width));
  if (const auto found = known_.find(key); found != known_.end()) return found->second;
  const int64_t steps = (layer.shape.rows + kTriedRows - 1) / kTriedRows;
  Layer few = layer;
  few.shape.rows = std::min(layer.shape.rows, kTriedRows);
  NIBBLE_TRY(PackedFacts out, pack(few));
  if (steps > 1) {
    few.shape.rows = 2 * kTriedRows;
    NIBBLE_TRY(const PackedFacts more, pack(few));
    out.bytes += (steps - 1) * (more.bytes - out.bytes);
  }
  return known_[key] = out;
}

Result<PackedFacts> Packing::of(const Spec& spec, const LinearPlan& plan, int64_t kept,
                                std::span<const uint8_t> widths) {
  const Shape shape = shape_of(spec, plan.role);
  NIBBLE_TRY(PackedFacts out, facts({shape,
                                     plan.weights,
                                     plan.quantized() ? plan.activations : NumberFormat(),
                                     plan.quantized() ? kept : 0,
                                     spec.bias[static_cast<size_t>(plan.role)],
                                     {widths.begin(), widths.end()}}));
  if (const int64_t sparse = sparse_of(plan, shape, kept); sparse > 0) out.bytes += 8 * sparse + 4 * shape.rows;
  return out;
}

Result<int64_t> Packing::bytes(const Shape& shape, const NumberFormat& weights, const NumberFormat& activations) {
  NIBBLE_TRY(const PackedFacts found, facts({shape, weights, activations, 0, false, {}}));
  return found.bytes;
}

namespace {

SiteWork shaped_site(const SitePlan& plan, const Spec& spec, int64_t kept) {
  SiteWork site{};
  site.name = plan.name;
  site.inputs = plan.inputs;
  site.open = open_linears(plan, spec);
  site.kept.resize(static_cast<size_t>(kept));
  std::iota(site.kept.begin(), site.kept.end(), 0);
  return site;
}

}  // namespace

double least_average(const SitePlan& plan, const Spec& spec, int64_t kept) {
  const SiteWork site = shaped_site(plan, spec, kept);
  double least = 0, weights = 0;
  for (const OpenLinear& linear : site.open) weights += static_cast<double>(linear.rows * site.inputs);
  for (const PlannedStep& step : plan.steps) least = std::max(least, step.step->least_open_bits(site));
  return std::ceil(100 * least / weights) / 100;
}

std::vector<uint8_t> even_widths(const SitePlan& plan, const Spec& spec, int64_t kept) {
  const SiteWork site = shaped_site(plan, spec, kept);
  for (const PlannedStep& step : plan.steps)
    if (step.step->gives_bits(open_columns())) return step.step->even_widths(site);
  return {};
}

Result<Beside> beside_linears(const ModelSource& source, const Recipe& recipe, Packing& packing) {
  const Spec& spec = source.spec();
  NIBBLE_TRY(const GlobalWeights globals, source.globals());
  Beside out;
  out.stored = bytes_of(global_tensors(globals));
  const Shape shape = shape_of(spec, Global::head);
  const LinearWeight& head = globals.head ? *globals.head : globals.embedding;
  if (recipe.head) {
    out.stored += head_bytes(spec, *recipe.head) - (globals.head ? globals.head->matrix_bytes() : 0);
    NIBBLE_TRY(out.resident, packing.bytes(shape, recipe.head->weights, recipe.head->activations));
  } else {
    NIBBLE_TRY(out.resident, packing.bytes(shape, head.format, NumberFormat()));
  }
  // A tied matrix is in memory once.
  if (globals.head || recipe.head) out.resident += static_cast<int64_t>(globals.embedding.codes.size());
  out.resident += static_cast<int64_t>(globals.position_rows.size() * sizeof(float));
  if (globals.project_out) {
    NIBBLE_TRY(const int64_t projection,
               packing.bytes(shape_of(spec, Global::project_out), globals.project_out->format, NumberFormat()));
    out.resident += projection;
  }
  for (int64_t b = 0; b < spec.layers; ++b) {
    NIBBLE_TRY(const BlockWeights block, source.block(b));
    int64_t bytes = bytes_of(block_tensors(block, b));
    for (Role role : kAllRoles)
      if (block[role].rows > 0) bytes -= block[role].matrix_bytes();
    out.stored += bytes;
    for (const NormWeight* norm : {&block.attention_norm, &block.mlp_norm})
      out.resident += static_cast<int64_t>((norm->gain.size() + norm->bias.size()) * sizeof(float));
  }
  return out;
}

int64_t header_bytes(const Spec& spec, int64_t tensors) {
  const NormParts parts = norm_parts_of(spec);
  int64_t biases = 0;
  for (Role role : kAllRoles) biases += int{spec.bias[static_cast<size_t>(role)]};
  const int64_t norms = (int{parts.gain} + int{parts.bias}) * (spec.shared_norm ? 1 : 2);
  const int64_t globals = static_cast<int64_t>(globals_of(spec).size()) + 2;
  tensors += spec.layers * (biases + norms) + globals;
  return (spec.layers + 1) * kHeaderOfShard + tensors * kHeaderOfTensor;
}

int64_t sparse_of(const LinearPlan& plan, const Shape& shape, int64_t kept) {
  if (!plan.weights.is_learned()) return 0;
  int64_t most = 0;
  for (const PlannedStep& step : plan.steps) most += step.step->most_sparse(shape.rows * (shape.columns - kept));
  return most;
}

int64_t tensors_of(const LinearPlan& plan, int64_t kept) {
  if (!plan.quantized()) return 1;
  const NumberFormat& format = plan.weights;
  return 1 + int{format.scale != ScaleCodec::none} + 2 * int{format.is_learned()} + int{format.bits == 0} +
         int{format.offset} + int{format.outer} + int{plan.sparse24} + (kept > 0 ? 2 : 0) +
         (sparse_of(plan, {1 << 20, 1 << 20}, 0) > 0 ? 3 : 0);
}

int64_t cache_bytes(const Spec& spec, std::span<const AttentionFormats> attention, int64_t context, int64_t batch) {
  Sequence sequence(spec, plan_attention(spec, attention));
  const int64_t tails = sequence.bytes();
  sequence.reserve(1);
  const int64_t page = sequence.bytes() - tails, pages = (context + kMostPositionBlock - 1) / kMostPositionBlock;
  return batch * (tails + pages * page);
}

int64_t workspace_bytes(const Spec& spec, int64_t context, int64_t batch, int threads) {
  const int64_t tokens = std::max(std::min(kPrompt, context), batch);
  const int64_t d = spec.hidden, heads = spec.heads * spec.head_dim, cached = spec.kv_heads * spec.head_dim;
  // The residual stream, and what the linears read and write.
  int64_t values = 3 * d + 2 * heads + 2 * cached + (int{spec.gated} + 1) * spec.ffn;
  values += std::max({d, heads, spec.ffn}) + kStrideRoom;  // an input, as it is prepared
  if (spec.embedding != d) values += spec.embedding;
  int64_t bytes = 4 * tokens * values + 4 * batch * spec.vocabulary;
  bytes += 4 * (spec.positions == Positions::alibi ? spec.heads * context : spec.head_dim * context);
  return bytes + threads * kAttentionScratch;
}

}  // namespace nibble::search
