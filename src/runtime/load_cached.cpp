// Loading and storing a model's packed weights as a packed cache.
#include <fmt/format.h>

#include "model/globals.h"
#include "runtime/model.h"

namespace nibble {
namespace {

constexpr const char *kEmbedding = "embedding", *kHead = "head", *kPositions = "positions", *kFinalNorm = "final_norm";

std::string norm_name(int64_t layer, const char* which) { return fmt::format("blocks.{}.{}", layer, which); }

std::string float_name(Levels levels) { return to_string({.levels = levels, .bits = levels == Levels::f32 ? 32 : 16}); }

// A norm has the parts that the Spec says, each `hidden` wide; positions have their own length.
Result<std::vector<float>> take_floats(const PackedCache& cache, const std::string& name, int64_t count) {
  if (count == 0) return std::vector<float>();
  NIBBLE_TRY(std::vector<float> values, cache.floats(name));
  if (static_cast<int64_t>(values.size()) != count)
    return fail(ErrorCode::corrupt, "packed cache: \"{}\" has {} values, expected {}", name, values.size(), count);
  return values;
}

Result<NormWeight> take_norm(const PackedCache& cache, const Spec& spec, const std::string& name) {
  const NormParts parts = norm_parts_of(spec);
  NormWeight norm;
  NIBBLE_TRY(norm.gain, take_floats(cache, name + ".gain", parts.gain ? spec.hidden : 0));
  NIBBLE_TRY(norm.bias, take_floats(cache, name + ".bias", parts.bias ? spec.hidden : 0));
  return norm;
}

void add_norm(PackedCacheWriter& writer, const std::string& name, const NormWeight& norm) {
  if (!norm.gain.empty()) writer.add(name + ".gain", norm.gain);
  if (!norm.bias.empty()) writer.add(name + ".bias", norm.bias);
}

Result<PackedLinear> take_linear(const PackedCache& cache, const std::string& name, Shape shape, bool bias, Isa isa) {
  NIBBLE_TRY(PackedLinear linear, cache.linear(name, shape.rows, shape.columns, isa));
  if (linear.shape().bias != bias)
    return fail(ErrorCode::corrupt, "packed cache: \"{}\" has {} bias", name, bias ? "no" : "a");
  return linear;
}

}  // namespace

// What goes wrong with the cache never stops a model from loading: the weights are beside it.
Status Model::load_cached(const ModelSource& source, ThreadPool& pool) {
  const std::filesystem::path path = source.folder() / kPackedCacheName;
  std::string converted = options_.weights ? float_name(*options_.weights) : "";
  if (options_.activations != Levels::f32) converted.append("/").append(float_name(options_.activations));
  const Result<Json> key = packed_cache_key(source.folder(), isa_, converted);
  if (!key) {
    note_ = fmt::format("packed cache neither read nor written: {}", key.error().message);
    return load_packing(source, pool);
  }
  const auto take = [&]() -> Status {
    NIBBLE_TRY(const PackedCache cache, PackedCache::open(path, *key, pool));
    NIBBLE_DO(take_globals(cache, pool));
    for (int64_t layer = 0; layer < spec_.layers; ++layer) NIBBLE_DO(take_block(cache, layer));
    return {};
  };
  const Status taken = take();
  if (taken) {
    from_cache_ = true;
    note_ = fmt::format("packed weights mapped from {}", path.string());
    return {};
  }
  std::error_code error;
  const bool there = std::filesystem::exists(path, error);
  globals_.reset();
  head_.reset();
  embedder_.reset();
  project_out_.reset();
  blocks_.clear();
  NIBBLE_DO(load_packing(source, pool));
  const Status written = write_cache(path, *key, pool);
  note_ = there ? fmt::format("packed cache ignored: {}; ", taken.error().message) : "";
  note_ += written ? fmt::format("packed weights written to {}", path.string())
                   : fmt::format("packed weights were not stored: {}", written.error().message);
  return {};
}

Status Model::take_globals(const PackedCache& cache, ThreadPool& pool) {
  globals_ = std::make_unique<GlobalWeights>();
  const Shape embedding = nibble::shape_of(spec_, Global::embedding);
  const bool tied = spec_.tied_head;
  NIBBLE_TRY(PackedLinear head, take_linear(cache, kHead, embedding, false, isa_));
  head_ = std::make_unique<const PackedLinear>(std::move(head));
  if (!tied) {
    NIBBLE_TRY(globals_->embedding, cache.matrix(kEmbedding, embedding.rows, embedding.columns));
  }
  NIBBLE_TRY(globals_->position_rows, take_floats(cache, kPositions, position_rows_of(spec_) * spec_.hidden));
  if (spec_.final_norm) {
    NIBBLE_TRY(globals_->final_norm, take_norm(cache, spec_, kFinalNorm));
  }
  NIBBLE_TRY(embedder_, Embedder::make(spec_, *globals_, isa_, pool, tied ? head_.get() : nullptr));
  return {};
}

Status Model::take_block(const PackedCache& cache, int64_t layer) {
  PackedBlock block;
  NIBBLE_TRY(block.attention_norm, take_norm(cache, spec_, norm_name(layer, "attention_norm")));
  if (!spec_.shared_norm) {
    NIBBLE_TRY(block.mlp_norm, take_norm(cache, spec_, norm_name(layer, "mlp_norm")));
  }
  for (Role role : kAllRoles) {
    const Shape shape = nibble::shape_of(spec_, role);
    if (shape.rows == 0) continue;
    const auto at = static_cast<size_t>(role);
    NIBBLE_TRY(block.linears[at], take_linear(cache, linear_name(layer, role), shape, spec_.bias[at], isa_));
  }
  find_plans(block);
  blocks_.push_back(std::move(block));
  return {};
}

Status Model::write_cache(const std::filesystem::path& path, const Json& key, ThreadPool& pool) const {
  if (spec_.embedding != spec_.hidden)
    return fail(ErrorCode::unsupported, "models with a projected embedding are not stored");
  PackedCacheWriter writer;
  writer.add(kHead, *head_);
  if (!spec_.tied_head) writer.add(kEmbedding, std::as_const(*globals_).embedding);
  if (!globals_->position_rows.empty()) writer.add(kPositions, globals_->position_rows);
  add_norm(writer, kFinalNorm, globals_->final_norm);
  for (int64_t layer = 0; layer < spec_.layers; ++layer) {
    const PackedBlock& of_layer = block(layer);
    add_norm(writer, norm_name(layer, "attention_norm"), of_layer.attention_norm);
    if (!spec_.shared_norm) add_norm(writer, norm_name(layer, "mlp_norm"), of_layer.mlp_norm);
    for (Role role : kAllRoles)
      if (const auto& linear = of_layer.linears[static_cast<size_t>(role)])
        writer.add(linear_name(layer, role), *linear);
  }
  return writer.write(path, key, pool);
}

}  // namespace nibble
