#include <nibble/text_tokenizer.h>

#include "api/guard.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

Result<TextTokenizer> TextTokenizer::load(const std::filesystem::path& folder) {
  return guarded([&]() -> Result<TextTokenizer> {
    NIBBLE_TRY(Tokenizer tokenizer, Tokenizer::load(folder));
    return TextTokenizer(std::make_shared<const Tokenizer>(std::move(tokenizer)));
  });
}

Result<std::vector<int32_t>> TextTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  return guarded([&]() -> Result<std::vector<int32_t>> { return tokenizer_->encode(text, add_special_tokens); });
}

Result<std::string> TextTokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  return guarded([&]() -> Result<std::string> { return tokenizer_->decode(ids, skip_special_tokens); });
}

std::optional<std::string> TextTokenizer::piece(int32_t id) const { return tokenizer_->token(id); }
bool TextTokenizer::is_special(int32_t id) const { return tokenizer_->is_special(id); }
int64_t TextTokenizer::vocabulary_size() const { return tokenizer_->vocabulary_size(); }
std::optional<int32_t> TextTokenizer::bos() const { return tokenizer_->bos(); }
std::optional<int32_t> TextTokenizer::eos() const { return tokenizer_->eos(); }

}  // namespace nibble
