// Checks and conversions of single tensors, with the file in every message.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "format/number_format.h"

namespace nibble {

// The path of the shard that a tensor of the checkpoint lies in.
std::string file_with(const Checkpoint& checkpoint, const TensorView& tensor);
// "[80, 48]"
std::string shape_text(const std::vector<int64_t>& shape);

// `corrupt`, with file, tensor, found and expected.
Status expect_shape(const Checkpoint& checkpoint, const TensorView& tensor, const std::vector<int64_t>& shape);
// `unsupported` unless the tensor is F32, F16 or BF16.
Status expect_float(const Checkpoint& checkpoint, const TensorView& tensor);
// `corrupt` for NaN or infinity, with the file.
Status check_values_of(const Checkpoint& checkpoint, const TensorView& tensor);

// Of a float type.
Levels levels_of(DType type);
DType dtype_of(Levels levels);
// All values of a float tensor.
Result<std::vector<float>> all_floats(const TensorView& tensor);

}  // namespace nibble
