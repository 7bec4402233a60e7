#include <nibble/random_model.h>

#include <chrono>

#include "api/float_type.h"
#include "api/guard.h"
#include "api/threads.h"
#include "core/json.h"
#include "model/families.h"
#include "model/random/random_checkpoint.h"

namespace nibble {
namespace {

tl::unexpected<Error> unknown_shape(const std::string& name) {
  std::string names;
  for (const KnownShape& shape : known_shapes()) names += (names.empty() ? "" : ", ") + std::string(shape.name);
  return fail(ErrorCode::usage, "no shape is called \"{}\"; known are {}", name, names);
}

int64_t parameters_of(const KnownShape& shape) {
  const auto config = parse_json(shape.config, shape.name);
  const auto reading = config ? read_family(*config, std::string(shape.name)) : tl::unexpected(config.error());
  NIBBLE_CHECK(reading.has_value());
  return parameter_count(reading->spec);
}

FloatType float_type_of(Levels levels) {
  for (FloatType type : {FloatType::f16, FloatType::bf16})
    if (levels_of(type) == levels) return type;
  return FloatType::f32;
}

}  // namespace

std::vector<ShapeInfo> known_model_shapes() {
  std::vector<ShapeInfo> shapes;
  for (const KnownShape& shape : known_shapes())
    shapes.push_back({std::string(shape.name), std::string(shape.description), parameters_of(shape)});
  return shapes;
}

Result<RandomModelOutcome> make_random_model(const RandomModelRequest& request) {
  return guarded([&]() -> Result<RandomModelOutcome> {
    const auto start = std::chrono::steady_clock::now();
    RandomCheckpoint wanted;
    wanted.shape = find_known_shape(request.shape);
    if (wanted.shape == nullptr) return unknown_shape(request.shape);
    wanted.layers = request.layers;
    if (request.type) wanted.levels = levels_of(*request.type);
    wanted.shard_bytes = request.shard_bytes;
    wanted.seed = request.seed;
    wanted.force = request.force;
    NIBBLE_TRY(const int threads, thread_count(request.threads));
    ThreadPool pool(threads);
    NIBBLE_TRY(const auto made, write_random_checkpoint(wanted, request.output, pool, request.progress));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return RandomModelOutcome{made.layers,    made.parameters, made.bytes, made.shards, float_type_of(made.levels),
                              elapsed.count()};
  });
}

}  // namespace nibble
