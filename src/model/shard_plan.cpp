#include "model/shard_plan.h"

#include "model/storage.h"
#include "model/tensor_map.h"
#include "model/tensor_reading.h"

namespace nibble {
namespace {

void add_unit(std::vector<Shard>& shards, int64_t unit, const std::vector<ExpectedTensor>& tensors, Levels levels,
              int64_t shard_bytes) {
  Shard added;
  for (const ExpectedTensor& tensor : tensors) {
    added.tensors.push_back({tensor.name, dtype_of(levels), tensor.shape, {}});
    added.units.emplace(tensor.name, unit);
    added.bytes += added.tensors.back().elements() * bytes_of(levels);
  }
  if (shards.empty() || shards.back().bytes + added.bytes > shard_bytes) shards.emplace_back();
  Shard& shard = shards.back();
  shard.tensors.insert(shard.tensors.end(), added.tensors.begin(), added.tensors.end());
  shard.units.merge(added.units);
  shard.bytes += added.bytes;
}

}  // namespace

std::vector<Shard> plan_shards(const Spec& spec, const Layout& layout, std::string_view base, Levels levels,
                               int64_t shard_bytes) {
  std::vector<Shard> shards;
  add_unit(shards, kGlobalUnit, global_map(spec, layout, base).tensors, levels, shard_bytes);
  for (int64_t block = 0; block < spec.layers; ++block)
    add_unit(shards, block, block_map(spec, layout, base, block).tensors, levels, shard_bytes);
  return shards;
}

int64_t bytes_of(const std::vector<Shard>& shards) {
  int64_t bytes = 0;
  for (const Shard& shard : shards) bytes += shard.bytes;
  return bytes;
}

Status write_shard_index(const std::filesystem::path& folder, const std::vector<Shard>& shards) {
  const auto count = static_cast<int64_t>(shards.size());
  if (count == 1) return {};
  ShardIndex index;
  for (int64_t i = 0; i < count; ++i)
    for (const TensorView& tensor : shards[static_cast<size_t>(i)].tensors)
      index.emplace(tensor.name, shard_name(i, count));
  return write_shard_index(folder, index, bytes_of(shards));
}

}  // namespace nibble
