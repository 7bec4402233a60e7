#include "model/tensor_reading.h"

#include <algorithm>

#include "checkpoint/file_name.h"
#include "core/file.h"

namespace nibble {

std::string file_with(const Checkpoint& checkpoint, const TensorView& tensor) {
  for (const SafetensorsFile& file : checkpoint.files())
    if (file.find(tensor.name) != nullptr) return file.path().string();
  return checkpoint.folder().string();
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (int64_t extent : shape) text += fmt::format("{}{}", text.size() > 1 ? ", " : "", extent);
  return text + "]";
}

Status expect_shape(const Checkpoint& checkpoint, const TensorView& tensor, const std::vector<int64_t>& shape) {
  if (tensor.shape == shape) return {};
  return fail(ErrorCode::corrupt, "{}: tensor {} has the shape {}, config.json requires {}",
              file_with(checkpoint, tensor), in_quotes(tensor.name), shape_text(tensor.shape), shape_text(shape));
}

Status expect_float(const Checkpoint& checkpoint, const TensorView& tensor) {
  if (tensor.dtype == DType::f32 || tensor.dtype == DType::f16 || tensor.dtype == DType::bf16) return {};
  return fail(ErrorCode::unsupported, "{}: tensor {} has the type {}; supported are F32, F16 and BF16",
              file_with(checkpoint, tensor), in_quotes(tensor.name), name_of(tensor.dtype));
}

// In pieces, so that only one of them is resident; the whole tensor is looked at again to name what is bad in it.
Status check_values_of(const Checkpoint& checkpoint, const TensorView& tensor) {
  constexpr size_t kPiece = size_t{16} << 20;
  bool fine = true;
  for (size_t begin = 0; begin < tensor.bytes.size() && fine; begin += kPiece) {
    TensorView piece{
        tensor.name, tensor.dtype, {}, tensor.bytes.subspan(begin, std::min(kPiece, tensor.bytes.size() - begin))};
    piece.shape = {static_cast<int64_t>(piece.bytes.size()) * 8 / bits_of(tensor.dtype)};
    fine = check_finite(piece).has_value();
    MappedFile::release_pages(piece.bytes);
  }
  if (fine) return {};
  const Status status = check_finite(tensor);
  return fail(status.error().code, "{}: {}", file_with(checkpoint, tensor), status.error().message);
}

Levels levels_of(DType type) {
  if (type == DType::f16) return Levels::f16;
  return type == DType::bf16 ? Levels::bf16 : Levels::f32;
}

DType dtype_of(Levels levels) {
  if (levels == Levels::f16) return DType::f16;
  return levels == Levels::bf16 ? DType::bf16 : DType::f32;
}

Result<std::vector<float>> all_floats(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  NIBBLE_DO(read_floats(tensor, 0, values));
  return values;
}

}  // namespace nibble
