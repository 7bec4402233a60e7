#include "model/model.h"

#include "model/checkpoint_source.h"
#include "model/storage.h"

namespace nibble {
namespace {

constexpr size_t kMaxConfigBytes = size_t{256} << 20;

// Which of the two readers the folder needs: the quant_method of its quantization_config, if it has one.
Result<std::optional<std::string>> quantization_method(const Json& config, const std::string& where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(config, where));
  if (!reader.has("quantization_config")) return std::nullopt;
  NIBBLE_TRY(JsonReader quantization, reader.object("quantization_config"));
  NIBBLE_TRY(std::string method, quantization.string("quant_method"));
  return method;
}

}  // namespace

std::string linear_name(int64_t block, Role role) { return fmt::format("blocks.{}.{}", block, name_of(role)); }

Result<std::unique_ptr<ModelSource>> open_model(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  std::error_code error;
  if (std::filesystem::is_directory(folder, error) && !std::filesystem::exists(path, error))
    return fail(ErrorCode::corrupt, "{}: no config.json; expected the folder of a Hugging Face model", folder.string());
  if (std::filesystem::is_regular_file(folder, error)) {
    // The checkpoint reader knows what to say about a single file.
    NIBBLE_DO(Checkpoint::open(folder));
  }
  NIBBLE_TRY(Json config, read_json(path, kMaxConfigBytes));
  NIBBLE_TRY(const auto method, quantization_method(config, path.string()));
  if (!method) return open_checkpoint(folder, std::move(config));
  if (*method == "nibble") return open_quantized(folder, std::move(config));
  return fail(ErrorCode::unsupported,
              "{}: the model is already quantized by \"{}\"; supported are unquantized models and quant_method "
              "\"nibble\"",
              path.string(), *method);
}

}  // namespace nibble
