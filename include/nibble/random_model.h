// Models with random weights in the shape of known ones: to measure speed and memory without having the weights.
#pragma once

#include <nibble/language_model.h>
#include <nibble/progress.h>
#include <nibble/result.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nibble {

struct ShapeInfo {
  std::string name;         // "llama-2-7b"
  std::string description;  // family and dimensions, one line
  int64_t parameters = 0;
};
// The models whose shapes are known.
std::vector<ShapeInfo> known_model_shapes();

struct RandomModelRequest {
  std::string shape;  // the name of one of them
  std::filesystem::path output;
  int64_t layers = 0;                      // 0: as many as the model has
  std::optional<FloatType> type;           // of the weights; default: the type that the model was published in
  int64_t shard_bytes = int64_t{2} << 30;  // at most, where a block allows
  uint64_t seed = 0;
  int threads = 0;     // 0: NIBBLE_THREADS, or else one per usable processor
  bool force = false;  // replace an existing output
  ProgressCallback progress;
};

struct RandomModelOutcome {
  int64_t layers = 0, parameters = 0, tensor_bytes = 0, shards = 0;
  FloatType type = FloatType::f32;
  double seconds = 0;
};

// Writes a Hugging Face folder: config.json as the model has it, a byte-level tokenizer that covers the vocabulary and
// can encode any text, and normal weights of standard deviation 0.02 (less where they write to the residual stream, so
// that logits stay finite). It streams: a few MB per thread are held. The same request gives the same bytes, whatever
// the threads. `output` appears only when it is complete. `usage` for an unknown shape, with the list, or when `output`
// exists and `force` is not set.
Result<RandomModelOutcome> make_random_model(const RandomModelRequest& request);

}  // namespace nibble
