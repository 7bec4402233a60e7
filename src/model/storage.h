// The quantized folder: how weights are named and typed inside safetensors shards (docs/on-disk.md).
//
// A linear called NAME ("blocks.3.q", "head") is stored as
//
//   NAME.codes         U8   [N, row bytes]     packed codes, a dense part in codes
//   NAME.pattern       U8   [N, row bytes]     2:4 positions
//   NAME.scales        F32, F16 or U8 [N, G]   as the format's codec says; none where it has no shared scale
//   NAME.outer         F32  [1]                formats with an outer scale
//   NAME.offsets       U8   [N, G]             formats with an offset
//   NAME.levels        I8   [levels]           learned levels, integers
//   NAME.exponents     I8   [tables]           of the powers of two that they are multiplied with
//   NAME.widths        U8   [I] or [G]         formats that leave bits open: of each column, or group of columns
//   NAME.sparse        BF16 [sparse]           a sparse part: its weights,
//   NAME.sparse_columns  U16, or I32 beyond 65,536 dense columns, [sparse]    their places among the dense columns,
//   NAME.sparse_rows   I32  [N]                and how many of them the rows up to each have
//   NAME.weight        F32, F16 or BF16 [N, I] instead of all the above, a float dense part
//   NAME.kept          F16, or BF16 where "kept_as" says so, [N, kept]: kept columns, and their indices
//   NAME.kept_columns  I32  [kept]
//   NAME.bias          F32  [N]
//
// (N outputs, I dense columns, G groups; see format/linear_weight.h for the bytes.) Norms are NORM.gain and NORM.bias,
// F32 [hidden], with NORM one of blocks.I.attention_norm, blocks.I.mlp_norm, final_norm. The globals are the linears
// embedding, head, project_in, project_out, and positions.weight [rows, hidden] in the narrowest float type that
// holds every value exactly.
//
// Which linears are quantized, and how, stands in config.json under "quantization_config":
//
//   { "quant_method": "nibble", "format_version": 1, "recipe": {...}, "spec": {...},
//     "attention": {"q": FORMAT, "k": FORMAT, "p": FORMAT, "v": FORMAT},     or a list of them, one for each block;
//                                                                            absent: floats, as recipe.cache says
//     "linears": { "blocks.0.q": {"weights": "int4:row", "activations": "int4:token:asym", "kept": 16,
//                                 "pattern": "2:4", "hadamard": 32},
//                  "blocks.0.o": {"weights": "code:col", "activations": "bf16", "row_bits": 6144, "levels": 9216,
//                                 "sparse": 18874}, ... } }
//
// A linear without an entry is a plain float one. The reader takes the shapes from "spec" and refuses any tensor
// that is missing, extra, or of another shape or type.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "checkpoint/tensor.h"
#include "core/buffer.h"
#include "core/json.h"
#include "core/result.h"
#include "model/model.h"

namespace nibble {

// Written is the least version that says everything: 2 where a linear is rotated or attention is not in floats, 3 where
// the input of a linear is in bf16, 4 where levels are learned (version 3 had them as bfloat16 numbers: no longer
// read) or groups have bits of their own.
inline constexpr int64_t kFormatVersion = 4;

// Tensors ready for write_safetensors. They view `storage` and the weights they were made of: both must outlive them.
// Moving a NamedTensors keeps its views valid.
struct NamedTensors {
  std::vector<TensorView> tensors;
  std::vector<Bytes> storage;
};
// The weights must be valid (LinearWeight::validate); roles and parts that are empty are left out.
NamedTensors block_tensors(const BlockWeights& block, int64_t index);
NamedTensors global_tensors(const GlobalWeights& globals);

// The linear's line in "linears": {"weights", "activations"} and, where it has them, "kept", "pattern", "hadamard",
// "sparse" (how many weights), and where the format leaves bits open "row_bits" and, for learned levels, "levels"
// (MixedSizes).
Json linear_entry(const LinearWeight& weight);
// The whole "quantization_config". `recipe`: the canonical recipe; `linears`: an object of linear_entry() by
// linear_name(); `attention`: by block; nothing, or no more than the recipe's "cache" says, is left out.
Json quantization_config_for(Json recipe, const Spec& spec, Json linears,
                             std::span<const AttentionFormats> attention = {});

// "model-00002-of-00007.safetensors" for shard 1 (counted from 0) of 7; "model.safetensors" when there is one. The
// intended layout is one shard for the globals and one per block, with an index (write_shard_index).
std::string shard_name(int64_t index, int64_t count);
// Copies the files that travel with a model unchanged (tokenizer, chat template, generation_config.json, licence), as
// far as they exist, durably.
Status copy_companions(const std::filesystem::path& from, const std::filesystem::path& to);

// Opens a folder whose config.json (already read as `config`) has a quantization_config of ours. Everything but the
// values is checked here; block() and globals() check those. `unsupported` for a newer format_version.
Result<std::unique_ptr<ModelSource>> open_quantized(const std::filesystem::path& folder, Json config);

}  // namespace nibble
