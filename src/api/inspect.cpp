#include <nibble/inspect.h>

#include "api/guard.h"
#include "checkpoint/safetensors.h"
#include "core/json.h"
#include "model/model.h"

namespace nibble {
namespace {

// Adds up what the weights of a model hold.
struct Tally {
  int64_t parameters = 0;
  int64_t linear_bytes = 0, linear_weights = 0;        // of all linears in the blocks
  int64_t quantized_bytes = 0, quantized_weights = 0;  // of those with integer codes
};

int64_t count_of(const std::vector<float>& values) { return static_cast<int64_t>(values.size()); }
int64_t count_of(const NormWeight& norm) { return count_of(norm.gain) + count_of(norm.bias); }
double bits_per(int64_t bytes, int64_t weights) {
  return weights > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(weights) : 0;
}

WeightInfo info_of(std::string name, const LinearWeight& weight) {
  const int64_t bytes = weight.matrix_bytes();
  return {std::move(name),
          weight.rows,
          weight.columns,
          to_string(weight.format),
          to_string(weight.activations),
          weight.sparse24,
          weight.kept_count(),
          weight.rotation,
          bytes,
          bits_per(bytes, weight.rows * weight.columns)};
}

void add_matrix(Inspection& inspection, Tally& tally, std::string name, const LinearWeight& weight) {
  inspection.matrices.push_back(info_of(std::move(name), weight));
  tally.parameters += weight.rows * weight.columns + count_of(weight.bias);
}

void add_globals(Inspection& inspection, Tally& tally, const GlobalWeights& globals) {
  add_matrix(inspection, tally, "embedding", globals.embedding);
  if (globals.project_in) add_matrix(inspection, tally, "project_in", *globals.project_in);
  if (globals.project_out) add_matrix(inspection, tally, "project_out", *globals.project_out);
  if (globals.head) add_matrix(inspection, tally, "head", *globals.head);
  tally.parameters += count_of(globals.position_rows) + count_of(globals.final_norm);
}

void add_block(Inspection& inspection, Tally& tally, int64_t index, const BlockWeights& block) {
  tally.parameters += count_of(block.attention_norm) + count_of(block.mlp_norm);
  for (Role role : kAllRoles) {
    const LinearWeight& weight = block[role];
    if (weight.rows == 0) continue;
    add_matrix(inspection, tally, linear_name(index, role), weight);
    const WeightInfo& info = inspection.matrices.back();
    tally.linear_bytes += info.stored_bytes;
    tally.linear_weights += info.rows * info.columns;
    if (!weight.format.has_codes()) continue;
    tally.quantized_bytes += info.stored_bytes;
    tally.quantized_weights += info.rows * info.columns;
  }
}

Status describe(const ModelSource& source, Inspection& inspection) {
  const Spec& spec = source.spec();
  inspection.family = spec.family;
  inspection.vocabulary = spec.vocabulary;
  inspection.hidden = spec.hidden;
  inspection.layers = spec.layers;
  inspection.heads = spec.heads;
  inspection.kv_heads = spec.kv_heads;
  inspection.head_dim = spec.head_dim;
  inspection.ffn = spec.ffn;
  inspection.positions = spec.max_positions;
  inspection.tied_head = spec.tied_head;
  inspection.file_bytes = source.file_bytes();
  NIBBLE_TRY(const std::vector<AttentionFormats> attention, attention_of(source));
  inspection.attention = summary_of(attention);
  inspection.cache_bits = cache_bits(attention, spec.head_dim);
  const Json* quantization = source.quantization();
  inspection.quantized = quantization != nullptr;
  if (quantization == nullptr) return {};
  if (const Json* name = find_path(*quantization, {"recipe", "name"}); name != nullptr && name->is_string())
    inspection.recipe = name->get<std::string>();
  return {};
}

Result<int64_t> tensor_bytes_of(const std::filesystem::path& folder) {
  NIBBLE_TRY(const Checkpoint checkpoint, Checkpoint::open(folder));
  int64_t bytes = 0;
  for (const TensorView* tensor : checkpoint.tensors()) bytes += static_cast<int64_t>(tensor->bytes.size());
  return bytes;
}

void conclude(Inspection& inspection, const Tally& tally) {
  inspection.parameters = tally.parameters;
  inspection.bits_per_weight = bits_per(inspection.tensor_bytes, tally.parameters);
  inspection.quantized_bits_per_weight = tally.quantized_weights > 0
                                             ? bits_per(tally.quantized_bytes, tally.quantized_weights)
                                             : bits_per(tally.linear_bytes, tally.linear_weights);
  inspection.other_bytes = inspection.tensor_bytes;
  for (const WeightInfo& info : inspection.matrices) inspection.other_bytes -= info.stored_bytes;
}

}  // namespace

Result<Inspection> inspect(const std::filesystem::path& folder) {
  return guarded([&]() -> Result<Inspection> {
    NIBBLE_TRY(const auto source, open_model(folder));
    Inspection inspection;
    Tally tally;
    NIBBLE_DO(describe(*source, inspection));
    NIBBLE_TRY(inspection.tensor_bytes, tensor_bytes_of(folder));
    NIBBLE_TRY(const GlobalWeights globals, source->globals());
    add_globals(inspection, tally, globals);
    for (int64_t index = 0; index < source->spec().layers; ++index) {
      NIBBLE_TRY(const BlockWeights block, source->block(index));
      add_block(inspection, tally, index, block);
    }
    conclude(inspection, tally);
    return inspection;
  });
}

}  // namespace nibble
