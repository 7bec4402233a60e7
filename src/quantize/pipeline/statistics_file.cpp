#include "quantize/pipeline/statistics_file.h"

#include "checkpoint/safetensors.h"
#include "core/file.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".absmax";

fs::path piece_path(const fs::path& folder, int64_t block) { return folder / fmt::format("statistics.{}.f32", block); }

Result<MappedFile> open_piece(const fs::path& folder, int64_t block, const std::vector<SitePlan>& sites) {
  int64_t expected = 0;
  for (const SitePlan& site : sites) expected += site.inputs * static_cast<int64_t>(sizeof(float));
  const fs::path path = piece_path(folder, block);
  NIBBLE_TRY(MappedFile piece, MappedFile::open(path));
  if (static_cast<int64_t>(piece.bytes().size()) != expected)
    return fail(ErrorCode::corrupt, "{} has {} bytes, expected {}", path.string(), piece.bytes().size(), expected);
  return piece;
}

}  // namespace

Status write_statistics_piece(const fs::path& folder, int64_t block, std::span<const float> absmax) {
  NIBBLE_TRY(DurableFile file, DurableFile::create(piece_path(folder, block)));
  NIBBLE_DO(file.write(std::as_bytes(absmax)));
  return file.commit();
}

Status join_statistics(const fs::path& folder, const std::vector<std::vector<SitePlan>>& plans) {
  std::vector<MappedFile> pieces;
  std::vector<TensorView> tensors;
  pieces.reserve(plans.size());
  for (size_t block = 0; block < plans.size(); ++block) {
    NIBBLE_TRY(MappedFile piece, open_piece(folder, static_cast<int64_t>(block), plans[block]));
    pieces.push_back(std::move(piece));
    size_t at = 0;
    for (const SitePlan& site : plans[block]) {
      const size_t bytes = static_cast<size_t>(site.inputs) * sizeof(float);
      tensors.push_back(
          {site.name + std::string(kSuffix), DType::f32, {site.inputs}, pieces.back().bytes().subspan(at, bytes)});
      at += bytes;
    }
  }
  return write_safetensors(folder / kStatisticsName, tensors);
}

Result<std::map<std::string, std::vector<float>>> read_statistics(const fs::path& folder) {
  std::map<std::string, std::vector<float>> out;
  std::error_code error;
  if (!fs::exists(folder / kStatisticsName, error)) return out;
  NIBBLE_TRY(const SafetensorsFile file, SafetensorsFile::open(folder / kStatisticsName));
  for (const TensorView& tensor : file.tensors()) {
    const std::string_view name = tensor.name;
    if (!name.ends_with(kSuffix) || tensor.shape.size() != 1)
      return fail(ErrorCode::corrupt, "{}: tensor \"{}\" is not a list named SITE{}", file.path().string(), name,
                  kSuffix);
    if (const Status finite = check_finite(tensor); !finite)
      return fail(finite.error().code, "{}: {}", file.path().string(), finite.error().message);
    std::vector<float>& values = out[std::string(name.substr(0, name.size() - kSuffix.size()))];
    values.resize(static_cast<size_t>(tensor.elements()));
    NIBBLE_DO(read_floats(tensor, 0, values));
  }
  return out;
}

}  // namespace nibble
