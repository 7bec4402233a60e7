// How much the loss of the whole model minds an error of each single weight: a diagonal Fisher, made outside
// (tools/fisher.py) and read from one safetensors file of float tensors. Each linear has a tensor [N, K] under its
// canonical name ("blocks.3.q"), or under the name and in the shape of its tensor in the checkpoint, fused ones too.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "core/result.h"
#include "model/model.h"

namespace nibble {

class SensitivityFile {
 public:
  static Result<SensitivityFile> open(const std::filesystem::path& path, const ModelSource& model);

  // That there is a tensor for it, of the right shape and type. `corrupt` and `unsupported` errors name file and
  // tensor.
  Status check(int64_t block, Role role) const;
  // [N x K], times a factor that makes the greatest 1. check() was fine. `corrupt`, with file, tensor, row and column,
  // when a value is negative, NaN or infinite.
  Result<std::vector<float>> read(int64_t block, Role role) const;

 private:
  struct Place {
    const TensorView* tensor = nullptr;
    RowRuns rows;
  };
  SensitivityFile(SafetensorsFile file, const ModelSource& model) : file_(std::move(file)), model_(&model) {}
  Result<Place> find(int64_t block, Role role) const;

  SafetensorsFile file_;
  const ModelSource* model_;
};

}  // namespace nibble
