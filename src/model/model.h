// A model's weights, one block at a time: the same interface over a Hugging Face checkpoint and a quantized folder.
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/result.h"
#include "format/attention_formats.h"
#include "format/linear_weight.h"
#include "model/families.h"
#include "model/spec.h"

namespace nibble {

// Empty vectors where a norm has no gain or bias.
struct NormWeight {
  std::vector<float> gain, bias;
};

// One block. Roles that the Spec does not have (gate without gating) stay empty (rows == 0).
struct BlockWeights {
  NormWeight attention_norm;  // before attention (after it, post-norm)
  NormWeight mlp_norm;        // before the MLP; unused with a shared norm
  std::array<LinearWeight, kRoles> linears;

  LinearWeight& operator[](Role role) { return linears[static_cast<size_t>(role)]; }
  const LinearWeight& operator[](Role role) const { return linears[static_cast<size_t>(role)]; }
};

// Everything that is not in a block. Float tensors keep the type they are stored in.
struct GlobalWeights {
  LinearWeight embedding;                               // [vocabulary, embedding], a float LinearWeight read by row
  std::optional<LinearWeight> head;                     // absent when tied
  std::optional<LinearWeight> project_in, project_out;  // OPT-350m
  std::vector<float> position_rows;                     // learned positions [max_positions + offset, hidden]
  NormWeight final_norm;
};

// Where a linear lies in a Hugging Face checkpoint: in which rows of a tensor, by the names that the family knows for
// it.
struct CheckpointPlace {
  std::vector<std::string> names;
  RowRuns rows;
};

class ModelSource {
 public:
  virtual ~ModelSource() = default;
  const std::filesystem::path& folder() const { return folder_; }
  const Spec& spec() const { return spec_; }
  // nullptr for an unquantized model; else its quantization_config.
  virtual const Json* quantization() const { return nullptr; }
  // config.json as it was read (for a quantized folder: with quantization_config).
  const Json& config() const { return config_; }
  virtual Result<GlobalWeights> globals() const = 0;
  // Reads and, for a checkpoint, splits fused tensors and checks that all values are finite (names the tensor).
  virtual Result<BlockWeights> block(int64_t index) const = 0;
  virtual int64_t file_bytes() const = 0;  // of the weight files
  // Without names where the weights are not those of a checkpoint as they lie there.
  virtual CheckpointPlace place_of(int64_t /*block*/, Role /*role*/) const { return {}; }

 protected:
  std::filesystem::path folder_;
  Spec spec_;
  Json config_;
};

// What attention is computed in, one entry for each block: f32 throughout for models that say nothing.
Result<std::vector<AttentionFormats>> attention_of(const ModelSource& source);

// Opens a Hugging Face folder or a folder written by `nibble quantize`, whichever it is.
Result<std::unique_ptr<ModelSource>> open_model(const std::filesystem::path& folder);

// --- The quantized folder (docs/on-disk.md) ---------------------------------------------------------------

// Canonical name of a linear, e.g. "blocks.3.q"; its tensors are "<name>.codes", ".scales" ... or ".weight".
std::string linear_name(int64_t block, Role role);
// The rest of it (NamedTensors, quantization_config) is in model/storage.h.

// --- Families ---------------------------------------------------------------------------------------------

// Writes an ordinary float Hugging Face folder of the given family with the given weights: the inverse of reading
// (fused tensors are fused again). `levels`: f32, f16 or bf16. Streams block by block; durable.
//
// The folder appears complete or not at all (checkpoint/output_folder.h, which also says what `force` replaces). Shards
// hold whole blocks and at most `shard_bytes` where a block allows. Kept columns and integer codes become the floats
// that they stand for. `usage` when a value does not fit `levels`, naming the tensor, or when `folder` is the source's
// own; `unsupported` when the Spec of the weights is no longer one that the family's config can express.
struct CheckpointOptions {
  bool force = false;
  int64_t shard_bytes = int64_t{2} << 30;
};
Status write_checkpoint(const ModelSource& source, const std::filesystem::path& folder, Levels levels,
                        const CheckpointOptions& options = {});

}  // namespace nibble
