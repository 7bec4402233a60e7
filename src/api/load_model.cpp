#include "api/load_model.h"

#include "api/float_type.h"
#include "core/json.h"

namespace nibble {
namespace {

Result<CacheType> choose_cache(const ModelSource& source, const LoadOptions& options) {
  if (options.cache) return cache_type_of(*options.cache);
  const Json* quantization = source.quantization();
  if (quantization == nullptr) return CacheType::f32;
  const Json* name = find_path(*quantization, {"recipe", "cache"});
  if (name == nullptr) return CacheType::f32;
  if (!name->is_string())
    return fail(ErrorCode::corrupt, "{}: quantization_config recipe.cache is not a string", source.folder().string());
  NIBBLE_TRY(const FloatType type, float_type_named(name->get<std::string>()));
  return cache_type_of(type);
}

}  // namespace

Result<Model> load_model(const ModelSource& source, const LoadOptions& options, ThreadPool& pool) {
  Model::Options wanted;
  NIBBLE_TRY(wanted.cache, choose_cache(source, options));
  wanted.packed_cache = options.packed_cache;
  if (options.weights) wanted.weights = levels_of(*options.weights);
  if (options.activations == FloatType::f16)
    return fail(ErrorCode::usage, "activations in f16 are not supported; expected f32 or bf16");
  if (options.activations) wanted.activations = levels_of(*options.activations);
  return Model::load(source, wanted, pool);
}

}  // namespace nibble
