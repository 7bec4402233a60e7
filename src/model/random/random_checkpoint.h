// Hugging Face checkpoints in the shape of known models, with random weights: to measure speed and memory without the
// weights. What such a model says means nothing.
//
// Matrices, biases and embeddings are normal with standard deviation 0.02; those that write to the residual stream (o,
// down) have 0.02 / sqrt(2 x layers), so that the stream, and with it the logits, stay small at any depth. Gains of
// norms are 1. A value is one of 65,536 quantiles of the normal distribution, drawn by 16 bits of SplitMix64.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "core/progress.h"
#include "core/result.h"
#include "core/threads.h"
#include "format/number_format.h"
#include "model/random/shapes.h"

namespace nibble {

struct RandomCheckpoint {
  const KnownShape* shape = nullptr;
  int64_t layers = 0;            // 0: as many as the model has
  std::optional<Levels> levels;  // f32, f16 or bf16; default: the type that the model was published in
  int64_t shard_bytes = int64_t{2} << 30;
  uint64_t seed = 0;
  bool force = false;  // replace the folder
};

struct RandomCheckpointSummary {
  int64_t layers = 0, parameters = 0, bytes = 0, shards = 0;
  Levels levels = Levels::f32;
};

// Writes config.json, a byte-level tokenizer and the weights. The folder appears complete or not at all
// (checkpoint/output_folder.h); its bytes depend on the arguments only, never on the threads. Holds a few MB per
// thread.
Result<RandomCheckpointSummary> write_random_checkpoint(const RandomCheckpoint& wanted,
                                                        const std::filesystem::path& folder, ThreadPool& pool,
                                                        const ProgressCallback& progress);

}  // namespace nibble
