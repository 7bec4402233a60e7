#include "model/end_tokens.h"

namespace nibble {
namespace {

std::vector<int32_t> end_ids(const Json& config) {
  std::vector<int32_t> ids;
  const auto found = config.is_object() ? config.find("eos_token_id") : config.end();
  if (found == config.end()) return ids;
  const Json list = found->is_array() ? *found : Json::array({*found});
  for (const Json& id : list)
    if (id.is_number_integer() && id >= 0 && id <= INT32_MAX) ids.push_back(id.get<int32_t>());
  return ids;
}

}  // namespace

Result<std::vector<int32_t>> end_tokens(const ModelSource& source) {
  const std::filesystem::path file = source.folder() / "generation_config.json";
  std::error_code error;
  if (std::filesystem::exists(file, error)) {
    NIBBLE_TRY(const Json config, read_json(file));
    if (std::vector<int32_t> ids = end_ids(config); !ids.empty()) return ids;
  }
  return end_ids(source.config());
}

}  // namespace nibble
