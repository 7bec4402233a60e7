#include "quantize/observe/sensitivity.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/file_name.h"
#include "model/tensor_reading.h"

namespace nibble {

Result<SensitivityFile> SensitivityFile::open(const std::filesystem::path& path, const ModelSource& model) {
  NIBBLE_TRY(SafetensorsFile file, SafetensorsFile::open(path));
  return SensitivityFile(std::move(file), model);
}

Result<SensitivityFile::Place> SensitivityFile::find(int64_t block, Role role) const {
  const std::string name = linear_name(block, role);
  const Shape shape = shape_of(model_->spec(), role);
  CheckpointPlace place{{name}, RowRuns::whole(shape.rows)};
  const TensorView* tensor = file_.find(name);
  if (tensor == nullptr) {
    place = model_->place_of(block, role);
    for (const std::string& other : place.names)
      if (tensor == nullptr) tensor = file_.find(other);
  }
  if (tensor == nullptr)
    return fail(ErrorCode::corrupt, "{}: no sensitivities of {}: neither a tensor of that name nor {}",
                file_.path().string(), name, place.names.empty() ? "one of the checkpoint's" : place.names[0]);
  const std::string what =
      fmt::format("{}: tensor {}, the sensitivities of {},", file_.path().string(), in_quotes(tensor->name), name);
  const std::vector<int64_t> expected = {place.rows.total, shape.columns};
  if (tensor->shape != expected)
    return fail(ErrorCode::corrupt, "{} has the shape {}; the model's weights have {}", what, shape_text(tensor->shape),
                shape_text(expected));
  if (tensor->dtype != DType::f32 && tensor->dtype != DType::f16 && tensor->dtype != DType::bf16)
    return fail(ErrorCode::unsupported, "{} has the type {}; supported are F32, F16 and BF16", what,
                name_of(tensor->dtype));
  return Place{tensor, place.rows};
}

Status SensitivityFile::check(int64_t block, Role role) const {
  NIBBLE_DO(find(block, role));
  return {};
}

Result<std::vector<float>> SensitivityFile::read(int64_t block, Role role) const {
  NIBBLE_TRY(const Place place, find(block, role));
  NIBBLE_TRY(const std::vector<float> all, all_floats(*place.tensor));
  file_.release(*place.tensor);
  const int64_t columns = place.tensor->shape[1];
  std::vector<float> out;
  out.reserve(static_cast<size_t>(place.rows.rows() * columns));
  float most = 0;
  for (int64_t n = 0; n < place.rows.rows(); ++n) {
    const auto row =
        std::span(all).subspan(static_cast<size_t>(place.rows.at(n) * columns), static_cast<size_t>(columns));
    const auto wrong = std::find_if(row.begin(), row.end(), [](float v) { return !(v >= 0) || std::isinf(v); });
    if (wrong != row.end())
      return fail(ErrorCode::corrupt, "{}: tensor {}, row {}, column {}: {} is no sensitivity; expected 0 or more",
                  file_.path().string(), in_quotes(place.tensor->name), place.rows.at(n), wrong - row.begin(), *wrong);
    most = std::max(most, *std::max_element(row.begin(), row.end()));
    out.insert(out.end(), row.begin(), row.end());
  }
  if (most > 0)
    for (float& value : out) value /= most;
  return out;
}

}  // namespace nibble
