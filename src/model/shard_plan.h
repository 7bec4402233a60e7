// How the tensors of a float checkpoint are divided into files: whole blocks, and at most a given number of bytes where
// a block allows.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"
#include "format/number_format.h"
#include "model/families.h"

namespace nibble {

inline constexpr int64_t kGlobalUnit = -1;  // the unit of everything outside the blocks; the others are block indices

// What goes into one file. The tensors have names, types and shapes, no bytes.
struct Shard {
  std::vector<TensorView> tensors;
  std::map<std::string, int64_t> units;  // by tensor
  int64_t bytes = 0;
};

// All tensors of the model in the float type `levels`, the globals first. `base` is one of layout.bases.
std::vector<Shard> plan_shards(const Spec& spec, const Layout& layout, std::string_view base, Levels levels,
                               int64_t shard_bytes);
int64_t bytes_of(const std::vector<Shard>& shards);
// Writes model.safetensors.index.json when there is more than one shard.
Status write_shard_index(const std::filesystem::path& folder, const std::vector<Shard>& shards);

}  // namespace nibble
