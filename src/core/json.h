// JSON from files and users: nlohmann-json behind a parser that refuses what it silently accepts.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace nibble {

using Json = nlohmann::ordered_json;

// Strict parse: duplicate keys, nesting beyond 128 levels, non-finite numbers and invalid UTF-8 are `corrupt`.
// `where` (a file name) starts every message.
Result<Json> parse_json(std::string_view text, std::string_view where);
Result<Json> read_json(const std::filesystem::path& path, size_t limit = size_t{256} << 20);
// Invalid UTF-8 in strings is replaced, so dumping never throws. indent < 0: one line.
std::string dump_json(const Json& value, int indent = -1);

// The value behind a chain of keys, or nullptr when a value on the way is no object or lacks its key. Never throws,
// whatever a file holds, as json_pointer does at an array. The result lives in `value`.
const Json* find_path(const Json& value, std::initializer_list<std::string_view> keys);

// A typed view of one object that remembers which keys were read, so that the rest can be refused by name.
// Every getter says where the object is, the key, what was found and what was expected. `code` is the error
// code of its failures: corrupt for files of a model, usage for recipes.
class JsonReader {
 public:
  // The object must outlive the reader. `where`: e.g. "models/x/config.json" or "recipe mine, step solve".
  static Result<JsonReader> open(const Json& value, std::string where, ErrorCode code = ErrorCode::corrupt);

  const std::string& where() const { return where_; }
  ErrorCode code() const { return code_; }
  bool has(std::string_view key) const;      // present and not null
  bool is_null(std::string_view key) const;  // present and null
  // The value, or nullptr when the key is absent or null. Marks the key as read.
  const Json* find(std::string_view key);

  // Required when `fallback` is not given.
  Result<int64_t> integer(std::string_view key, int64_t least, int64_t most,
                          std::optional<int64_t> fallback = std::nullopt);
  Result<double> number(std::string_view key, double least, double most, std::optional<double> fallback = std::nullopt);
  Result<bool> boolean(std::string_view key, std::optional<bool> fallback = std::nullopt);
  Result<std::string> string(std::string_view key, std::optional<std::string> fallback = std::nullopt);
  Result<std::vector<std::string>> strings(std::string_view key,
                                           std::optional<std::vector<std::string>> fallback = std::nullopt);
  Result<JsonReader> object(std::string_view key);

  // Marks keys as known without reading them.
  void ignore(std::initializer_list<std::string_view> keys);
  // Fails with the name of the first key that nobody read.
  Status refuse_unknown() const;

 private:
  JsonReader(const Json& value, std::string where, ErrorCode code)
      : value_(&value), where_(std::move(where)), code_(code) {}
  tl::unexpected<Error> wrong(std::string_view key, const Json& found, std::string_view expected) const;
  tl::unexpected<Error> missing(std::string_view key) const;
  const Json* value_;
  std::string where_;
  ErrorCode code_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace nibble
