// Text to token ids and back, as the tokenizer files of a model folder define it.
#pragma once

#include <nibble/result.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

class Tokenizer;

// A cheap handle to immutable data: copy it freely, use it from any number of threads at once.
class TextTokenizer {
 public:
  // Reads tokenizer.json, tokenizer.model, or vocab.json and merges.txt of a folder; the weights are not needed.
  // Errors: `io` when there is none of them, `corrupt` for damaged files, `unsupported` (by name) for a pipeline
  // stage that is not implemented.
  static Result<TextTokenizer> load(const std::filesystem::path& folder);

  // Ids of a text. add_special_tokens: also what the model's own rule puts around a text (such as <s>). Bytes that
  // are not UTF-8 count as U+FFFD. `resources` when memory runs out.
  Result<std::vector<int32_t>> encode(std::string_view text, bool add_special_tokens = true) const;
  // The text of some ids, always valid UTF-8. Ids outside the vocabulary are skipped.
  Result<std::string> decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;

  // The vocabulary's own spelling of one token, e.g. "Ġthe"; nullopt outside the vocabulary.
  std::optional<std::string> piece(int32_t id) const;
  bool is_special(int32_t id) const;
  int64_t vocabulary_size() const;     // 1 + the largest id
  std::optional<int32_t> bos() const;  // as the folder's configuration names them, when it does
  std::optional<int32_t> eos() const;

 private:
  friend class LanguageModel;
  explicit TextTokenizer(std::shared_ptr<const Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {}
  std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace nibble
