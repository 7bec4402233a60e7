#include "eval/verify/manifest_form.h"

#include <algorithm>
#include <string_view>

#include "checkpoint/manifest.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTokenizerFiles[] = {"tokenizer.json", "tokenizer.model", "vocab.json"};

// Files that a run of the model reads.
bool matters(const fs::path& file) {
  constexpr std::string_view kNames[] = {
      "config.json", "model.safetensors.index.json", "tokenizer.json",        "tokenizer.model", "vocab.json",
      "merges.txt",  "tokenizer_config.json",        "generation_config.json"};
  const std::string name = file.filename().string();
  return file.extension() == ".safetensors" ||
         std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

Status expect_listed(const Json& manifest, const fs::path& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (matters(entry.path()) && find_path(manifest, {"files", name}) == nullptr)
      return fail(ErrorCode::corrupt, "{}: \"files\" does not list {}", (folder / kManifestName).string(), name);
  }
  if (error) return fail(ErrorCode::io, "cannot list {}: {}", folder.string(), error.message());
  return {};
}

}  // namespace

Status expect_whole(const Json& manifest, const ModelSource& source) {
  const fs::path& folder = source.folder();
  const std::string where = (folder / kManifestName).string();
  const auto missing = [&](std::string_view part) {
    return fail(ErrorCode::corrupt, "{}: \"{}\" is missing", where, part);
  };
  if (find_path(manifest, {"inputs", "recipe"}) == nullptr) return missing("inputs, recipe");
  const Json* linears = find_path(manifest, {"linears"});
  if (linears == nullptr || !linears->is_array()) return missing("linears");
  for (const char* part : {"ids", "top"}) {
    const Json* values = find_path(manifest, {"logits", part});
    if (values == nullptr || !values->is_array() || values->empty()) return missing(fmt::format("logits, {}", part));
  }
  const bool has_tokenizer = std::any_of(std::begin(kTokenizerFiles), std::end(kTokenizerFiles),
                                         [&](std::string_view name) { return fs::exists(folder / name); });
  if (has_tokenizer && find_path(manifest, {"tokenizer"}) == nullptr) return missing("tokenizer");
  NIBBLE_DO(expect_listed(manifest, folder));
  const Json* spec = find_path(manifest, {"spec"});
  if (spec != nullptr && *spec != to_json(source.spec()))
    return fail(ErrorCode::corrupt, "{}: the model that was quantized had another \"spec\" than config.json has now",
                where);
  return {};
}

}  // namespace nibble
