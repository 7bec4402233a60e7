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

Result<std::vector<AttentionFormats>> read_blocks(const Json& source, size_t blocks, const std::string& where) {
  std::vector<AttentionFormats> out(blocks);
  if (!source.is_array()) {
    NIBBLE_TRY(const AttentionFormats formats, attention_from_json(source, where));
    out.assign(blocks, formats);
    return out;
  }
  if (source.size() != blocks)
    return fail(ErrorCode::corrupt, "{} has {} entries for {} blocks", where, source.size(), blocks);
  for (size_t i = 0; i < blocks; ++i) {
    NIBBLE_TRY(out[i], attention_from_json(source[i], fmt::format("{}[{}]", where, i)));
  }
  return out;
}

}  // namespace

Result<std::vector<AttentionFormats>> attention_of(const ModelSource& source) {
  const auto blocks = static_cast<size_t>(source.spec().layers);
  std::vector<AttentionFormats> out(blocks);
  if (source.quantization() == nullptr) return out;
  const std::string where = (source.folder() / "config.json").string() + ", quantization_config";
  const Json& quantization = *source.quantization();
  Status checked;
  if (const Json* attention = find_path(quantization, {"attention"})) {
    auto read = read_blocks(*attention, blocks, where + ", \"attention\"");
    if (read) out = std::move(*read);
    if (!read) checked = tl::unexpected(read.error());
  } else if (const Json* cache = find_path(quantization, {"recipe", "cache"})) {
    const std::string place = where + ", recipe, \"cache\"";
    if (!cache->is_string()) return fail(ErrorCode::corrupt, "{} is {}, expected a format", place, dump_json(*cache));
    auto formats = with_cache({}, cache->get<std::string>(), place);
    if (formats) out.assign(blocks, *formats);
    if (!formats) checked = tl::unexpected(formats.error());
  }
  if (!checked) return fail(ErrorCode::corrupt, "{}", checked.error().message);
  return out;
}

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
