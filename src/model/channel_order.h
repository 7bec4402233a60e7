// The same model with its channels in another order. Weights are permuted, their producers and their readers alike, so
// that the function stays what it is and nothing is done at run time.
//
// What may be reordered: the residual stream (one order for the whole model: columns of the embedding and of learned
// positions, norms, columns of what reads it, rows of what adds to it), the hidden channels of each MLP, and of each
// key-value head the channels of its values, which the output projection reads (once for each query head).
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "model/model.h"

namespace nibble {

// Channel i of the reordered model is channel order[i] of the original one; an empty list changes nothing.
struct ChannelOrder {
  struct Block {
    std::vector<int32_t> mlp;     // [ffn]
    std::vector<int32_t> values;  // [kv_heads * head_dim]: within each head
  };
  std::vector<int32_t> residual;  // [hidden]
  std::vector<Block> blocks;      // of every block, or none

  bool empty() const { return residual.empty() && blocks.empty(); }
};

// The order that undoes another one.
ChannelOrder inverse(const ChannelOrder& order);
// Every list is a permutation, of the size that the Spec asks for. `corrupt`; `where` starts the message.
Status validate(const ChannelOrder& order, const Spec& spec, std::string_view where);

// Reorders what was read of a model. Float matrices keep their type; coded ones become the f32 that they stand for.
void reorder(const ChannelOrder& order, const Spec& spec, GlobalWeights& globals);
void reorder(const ChannelOrder& order, const Spec& spec, int64_t index, BlockWeights& block);

// A source that reads as another one does, but reordered. The order must be valid for its Spec.
std::unique_ptr<ModelSource> reordered(std::unique_ptr<ModelSource> source, ChannelOrder order);

// Kept beside a quantized model, for whoever compares it with the original; nothing reads it to run the model.
//   nibble.order.safetensors    "residual" I32 [hidden]; "blocks.I.mlp" I32 [ffn]; "blocks.I.values" I32 [values]
inline constexpr const char* kOrderName = "nibble.order.safetensors";
Status write_order(const std::filesystem::path& folder, const ChannelOrder& order);
// An empty order when the folder has no such file; `corrupt` when it is damaged, incomplete or not of this Spec.
Result<ChannelOrder> read_order(const std::filesystem::path& folder, const Spec& spec);
// Of a quantized model, in which order its channels are; `corrupt` when its recipe gathers channels and the file is not
// there.
Result<ChannelOrder> order_of(const ModelSource& model);

}  // namespace nibble
