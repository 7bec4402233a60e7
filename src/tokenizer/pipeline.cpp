#include "tokenizer/pipeline.h"

#include <algorithm>

namespace nibble {
namespace {

// The text under which a token is found in normalized text.
std::string normalized_content(const AddedToken& token, const Normalizer* normalizer) {
  NormalText text{token.content, true};
  Work work(token.content.size());
  if (normalizer != nullptr) normalizer->apply(text, work);
  return std::move(text.text);
}

}  // namespace

Status Pipeline::index_added_tokens(const std::string& where) {
  std::vector<AddedTokenSearch::Entry> raw, normal;
  for (const AddedToken& token : added) {
    if (token.content.empty()) return fail(ErrorCode::corrupt, "{}: the token with id {} is empty", where, token.id);
    auto known = vocabulary.id(token.content);
    if (known && *known != token.id)
      return fail(ErrorCode::corrupt, "{}: \"{}\" has id {}, but {} in the model's vocabulary", where, token.content,
                  token.id, *known);
    if (const std::string* other = vocabulary.token(token.id); other != nullptr && !known)
      return fail(ErrorCode::corrupt, "{}: \"{}\" has id {}, which is \"{}\" in the model's vocabulary", where,
                  token.content, token.id, *other);
    if (!added_vocabulary.add(token.content, token.id))
      return fail(ErrorCode::corrupt, "{}: \"{}\" with id {} is there twice, or its id is used twice or above {}",
                  where, token.content, token.id, kMaxTokenId);
    std::string text = token.normalized ? normalized_content(token, normalizer.get()) : token.content;
    if (text.empty()) continue;
    (token.normalized ? normal : raw)
        .push_back({std::move(text), token.id, token.single_word, token.lstrip, token.rstrip});
  }
  raw_search = AddedTokenSearch(std::move(raw));
  normalized_search = AddedTokenSearch(std::move(normal));
  special.assign(static_cast<size_t>(std::max(vocabulary.size(), added_vocabulary.size())), false);
  for (const AddedToken& token : added) special[static_cast<size_t>(token.id)] = token.special;
  return {};
}

const std::string* Pipeline::token(int64_t id) const {
  const std::string* found = added_vocabulary.token(id);
  return found != nullptr ? found : vocabulary.token(id);
}

std::optional<int32_t> Pipeline::id(std::string_view token) const {
  auto found = added_vocabulary.id(token);
  return found ? found : vocabulary.id(token);
}

void Pipeline::declare_special(const std::string& content) {
  auto id = vocabulary.id(content);
  auto same = [&](const AddedToken& token) { return token.content == content || token.id == id; };
  if (!id || std::any_of(added.begin(), added.end(), same)) return;
  AddedToken token;
  token.id = *id;
  token.content = content;
  token.special = true;
  added.push_back(std::move(token));
}

Result<Template> Pipeline::surroundings(const TokenizerConfig& config, const std::string& default_bos,
                                        const std::string& default_eos, bool add_bos, const std::string& where) const {
  std::vector<int32_t> prefix, suffix;
  auto put = [&](const std::optional<AddedToken>& token, const std::string& fallback,
                 std::vector<int32_t>& ids) -> Status {
    const std::string& content = token ? token->content : fallback;
    auto found = id(content);
    if (!found) return fail(ErrorCode::corrupt, "{}: has no token \"{}\" to put around a text", where, content);
    ids.push_back(*found);
    return {};
  };
  if (config.add_bos.value_or(add_bos)) NIBBLE_DO(put(config.bos, default_bos, prefix));
  if (config.add_eos.value_or(false)) NIBBLE_DO(put(config.eos, default_eos, suffix));
  return surround(std::move(prefix), std::move(suffix));
}

}  // namespace nibble
