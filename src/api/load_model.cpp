#include "api/load_model.h"

#include "api/float_type.h"

namespace nibble {

Result<Model> load_model(const ModelSource& source, const LoadOptions& options, ThreadPool& pool) {
  Model::Options wanted;
  wanted.cache = options.cache;
  wanted.packed_cache = options.packed_cache;
  if (options.weights) wanted.weights = levels_of(*options.weights);
  if (options.activations == FloatType::f16)
    return fail(ErrorCode::usage, "activations in f16 are not supported; expected f32 or bf16");
  if (options.activations) wanted.activations = levels_of(*options.activations);
  return Model::load(source, wanted, pool);
}

}  // namespace nibble
