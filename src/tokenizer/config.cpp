// The small files beside a tokenizer: tokenizer_config.json, special_tokens_map.json, added_tokens.json and
// config.json. They are written by many programs; keys that nobody here needs are passed over.
#include <algorithm>
#include <charconv>

#include "core/json.h"
#include "tokenizer/pipeline.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFile = size_t{64} << 20;

// A special token is a string or an object with "content"; null means none.
Result<std::optional<AddedToken>> read_token(JsonReader& reader, std::string_view key) {
  const Json* value = reader.find(key);
  if (value == nullptr) return std::nullopt;
  AddedToken token;
  token.special = true;
  token.id = -1;
  if (value->is_string()) {
    token.content = value->get<std::string>();
    return token;
  }
  NIBBLE_TRY(JsonReader object, reader.object(key));
  NIBBLE_TRY(token.content, object.string("content"));
  return token;
}

Result<std::optional<bool>> read_flag(JsonReader& reader, std::string_view key) {
  if (!reader.has(key)) return std::nullopt;
  NIBBLE_TRY(bool value, reader.boolean(key));
  return value;
}

Result<AddedToken> read_decoder_entry(const std::string& key, const Json& value, const std::string& where) {
  AddedToken token;
  const char *begin = key.data(), *end = begin + key.size();
  auto [stop, error] = std::from_chars(begin, end, token.id);
  if (error != std::errc() || stop != end || token.id < 0 || token.id > kMaxTokenId)
    return fail(ErrorCode::corrupt, "{}: \"{}\" is not an id from 0 to {}", where, key, kMaxTokenId);
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, fmt::format("{}, \"{}\"", where, key)));
  NIBBLE_TRY(token.content, reader.string("content"));
  NIBBLE_TRY(token.single_word, reader.boolean("single_word", false));
  NIBBLE_TRY(token.lstrip, reader.boolean("lstrip", false));
  NIBBLE_TRY(token.rstrip, reader.boolean("rstrip", false));
  NIBBLE_TRY(token.special, reader.boolean("special", false));
  NIBBLE_TRY(token.normalized, reader.boolean("normalized", !token.special));
  return token;
}

Status read_added_decoder(JsonReader& reader, TokenizerConfig& config) {
  const Json* entries = reader.find("added_tokens_decoder");
  if (entries == nullptr) return {};
  std::string where = reader.where() + ", \"added_tokens_decoder\"";
  if (!entries->is_object()) return fail(ErrorCode::corrupt, "{}: expected an object", where);
  for (const auto& item : entries->items()) {
    NIBBLE_TRY(AddedToken token, read_decoder_entry(item.key(), item.value(), where));
    config.added.push_back(std::move(token));
  }
  return {};
}

Status read_tokenizer_config(const Json& value, const std::string& where, TokenizerConfig& config) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, where));
  NIBBLE_TRY(config.tokenizer_class, reader.string("tokenizer_class", ""));
  if (config.tokenizer_class.ends_with("Fast")) config.tokenizer_class.resize(config.tokenizer_class.size() - 4);
  NIBBLE_TRY(config.bos, read_token(reader, "bos_token"));
  NIBBLE_TRY(config.eos, read_token(reader, "eos_token"));
  NIBBLE_TRY(config.unknown, read_token(reader, "unk_token"));
  NIBBLE_TRY(config.pad, read_token(reader, "pad_token"));
  NIBBLE_TRY(config.add_bos, read_flag(reader, "add_bos_token"));
  NIBBLE_TRY(config.add_eos, read_flag(reader, "add_eos_token"));
  NIBBLE_TRY(config.add_prefix_space, read_flag(reader, "add_prefix_space"));
  NIBBLE_TRY(config.legacy, read_flag(reader, "legacy"));
  return read_added_decoder(reader, config);
}

Status read_special_tokens_map(const Json& value, const std::string& where, TokenizerConfig& config) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, where));
  auto complete = [&](std::string_view key, std::optional<AddedToken>& token) -> Status {
    NIBBLE_TRY(auto found, read_token(reader, key));
    if (!token) token = std::move(found);
    return {};
  };
  NIBBLE_DO(complete("bos_token", config.bos));
  NIBBLE_DO(complete("eos_token", config.eos));
  NIBBLE_DO(complete("unk_token", config.unknown));
  return complete("pad_token", config.pad);
}

// {token: id}, older than added_tokens_decoder, which says more.
Status read_added_tokens(const Json& value, const std::string& where, TokenizerConfig& config) {
  NIBBLE_TRY(Vocabulary tokens, Vocabulary::read(value, where));
  if (!config.added.empty()) return {};
  for (int64_t id = 0; id < tokens.size(); ++id) {
    if (tokens.token(id) == nullptr) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = *tokens.token(id);
    token.normalized = true;
    config.added.push_back(std::move(token));
  }
  return {};
}

Status read_config(const Json& value, const std::string& where, TokenizerConfig& config) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, where));
  NIBBLE_TRY(config.model_type, reader.string("model_type", ""));
  return {};
}

struct ConfigFile {
  const char* name;
  Status (*read)(const Json&, const std::string&, TokenizerConfig&);
  bool defines_tokenizer;
};
constexpr ConfigFile kFiles[] = {
    {"tokenizer_config.json", read_tokenizer_config, true},
    {"special_tokens_map.json", read_special_tokens_map, true},
    {"added_tokens.json", read_added_tokens, true},
    {"config.json", read_config, false},
};

}  // namespace

Result<TokenizerConfig> TokenizerConfig::read(const fs::path& folder) {
  TokenizerConfig config;
  for (const ConfigFile& file : kFiles) {
    fs::path path = folder / file.name;
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    NIBBLE_TRY(Json value, read_json(path, kMaxFile));
    NIBBLE_DO(file.read(value, path.string(), config));
    if (file.defines_tokenizer) config.files.push_back(file.name);
  }
  return config;
}

}  // namespace nibble
