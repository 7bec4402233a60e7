// Tokens and their ids, both ways.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/json.h"
#include "core/result.h"

namespace nibble {

// Ids are stored by position: the largest one bounds memory, and this bounds the largest one.
constexpr int64_t kMaxTokenId = (int64_t{1} << 22) - 1;

// Movable, not copyable (the index points into the strings). Gaps between ids are allowed.
class Vocabulary {
 public:
  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  // An object {token: id}, as in vocab.json. Duplicate or impossible ids are refused by name.
  static Result<Vocabulary> read(const Json& value, const std::string& where);

  // False when the token or the id is taken, or the id is out of range.
  bool add(std::string token, int64_t id);
  std::optional<int32_t> id(std::string_view token) const;
  const std::string* token(int64_t id) const;  // nullptr: no such id
  int64_t count() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t size() const { return static_cast<int64_t>(by_id_.size()); }  // 1 + the largest id

 private:
  std::deque<std::string> tokens_;
  std::vector<int32_t> by_id_;  // index into tokens_, or -1
  std::unordered_map<std::string_view, int32_t> ids_;
};

}  // namespace nibble
