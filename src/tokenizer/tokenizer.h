// Text to ids and back, as the tokenizer files of a Hugging Face folder define it.
//
// A tokenizer is a pipeline: added tokens are cut out of the text, the rest is normalized, split into pieces
// (pre-tokenizer), each piece becomes ids (the model), and a template puts special ids around them. Decoding runs
// a chain of decoders over the tokens' strings. Every stage of `tokenizer.json` is either implemented as the
// reference library (Hugging Face tokenizers) does it or refused by name when the folder is loaded; afterwards
// nothing can fail.
//
// Text that is not UTF-8 is encoded as if every ill-formed sequence were U+FFFD. Truncation and padding settings
// are not applied. A Tokenizer is a cheap handle to immutable data: copy it freely, use it from any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace nibble {

// What one encode() did, for tests that bound work instead of time.
struct EncodeCost {
  int64_t merge_steps = 0;       // candidates taken from the queue of the merge loop
  bool regex_exhausted = false;  // a pattern hit its limit; what it had not split by then stayed in one piece
};

class Tokenizer {
 public:
  // Reads the first of these that the folder has: tokenizer.json; tokenizer.model (SentencePiece BPE);
  // vocab.json + merges.txt (GPT-2, OPT, Qwen2). tokenizer_config.json, special_tokens_map.json, added_tokens.json
  // and config.json's model_type complete them. Errors: `io` when there is none, `corrupt` for damaged files,
  // `unsupported` (by name) for stages that are not implemented.
  static Result<Tokenizer> load(const std::filesystem::path& folder);

  // A tokenizer.json by itself; `where` stands for its name in errors. No bos, eos or files.
  static Result<Tokenizer> parse(std::string_view tokenizer_json, const std::string& where);

  // add_special_tokens: also what the post-processor puts around a text (such as <s>). The text of an added token
  // becomes its id in either case.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true) const;
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens, EncodeCost& cost) const;

  // Ids outside the vocabulary are skipped. Always valid UTF-8.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;

  int64_t vocabulary_size() const;                     // 1 + the largest id
  std::optional<std::string> token(int32_t id) const;  // the raw vocabulary string, e.g. "Ġthe"
  std::optional<int32_t> id(std::string_view token) const;
  bool is_special(int32_t id) const;
  std::optional<int32_t> bos() const;  // as the configuration files name them, when they do
  std::optional<int32_t> eos() const;
  // The names of the files in the folder that define this tokenizer, to be copied unchanged.
  const std::vector<std::string>& files() const;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

// Decodes ids one at a time. What push() and finish() return, concatenated, is decode() of all the ids, and every
// return value is whole code points: bytes of an unfinished one are kept back. One thread at a time.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();

  std::string push(int32_t id);
  std::string finish();  // the rest; afterwards the decoder starts anew

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
