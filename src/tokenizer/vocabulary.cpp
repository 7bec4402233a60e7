#include "tokenizer/vocabulary.h"

namespace nibble {

Result<Vocabulary> Vocabulary::read(const Json& value, const std::string& where) {
  if (!value.is_object()) return fail(ErrorCode::corrupt, "{}: expected an object of tokens and ids", where);
  Vocabulary vocabulary;
  vocabulary.ids_.reserve(value.size());
  for (const auto& item : value.items()) {
    const Json& number = item.value();
    bool fits = number.is_number_integer() && number >= 0 && number <= kMaxTokenId;
    if (!fits)
      return fail(ErrorCode::corrupt, "{}: the id of \"{}\" is {}, expected an integer from 0 to {}", where, item.key(),
                  dump_json(number), kMaxTokenId);
    auto id = number.get<int64_t>();
    if (const std::string* other = vocabulary.token(id))
      return fail(ErrorCode::corrupt, "{}: \"{}\" and \"{}\" have the same id {}", where, *other, item.key(), id);
    NIBBLE_CHECK(vocabulary.add(item.key(), id));
  }
  return vocabulary;
}

bool Vocabulary::add(std::string token, int64_t id) {
  if (id < 0 || id > kMaxTokenId || this->token(id) != nullptr || ids_.contains(token)) return false;
  if (id >= size()) by_id_.resize(static_cast<size_t>(id) + 1, -1);
  by_id_[static_cast<size_t>(id)] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(std::move(token));
  ids_.emplace(tokens_.back(), static_cast<int32_t>(id));
  return true;
}

std::optional<int32_t> Vocabulary::id(std::string_view token) const {
  auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* Vocabulary::token(int64_t id) const {
  if (id < 0 || id >= size() || by_id_[static_cast<size_t>(id)] < 0) return nullptr;
  return &tokens_[static_cast<size_t>(by_id_[static_cast<size_t>(id)])];
}

}  // namespace nibble
