// The parts of one tokenizer, however its files said so, and the readers that fill them in.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/model.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/post_processor.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/vocabulary.h"

namespace nibble {

struct TokenizerConfig;

// Stays where it is: the model refers to the vocabulary.
struct Pipeline {
  Pipeline() = default;
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  Vocabulary vocabulary;                        // of the model
  std::vector<AddedToken> added;                // some of them in the vocabulary, too, with the same id
  std::unique_ptr<Normalizer> normalizer;       // null: none
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // null: none
  std::unique_ptr<TokenModel> model;
  Template around;  // what post-processing puts around a text
  DecoderChain decoders;
  std::optional<int32_t> bos, eos;
  std::vector<std::string> files;

  // Derived from `added` by index_added_tokens().
  Vocabulary added_vocabulary;
  AddedTokenSearch raw_search, normalized_search;  // in the text as it comes, and in the normalized text
  std::vector<bool> special;                       // by id

  // Checks and indexes the added tokens. `where` names their file and key.
  Status index_added_tokens(const std::string& where);
  const std::string* token(int64_t id) const;
  std::optional<int32_t> id(std::string_view token) const;

  // For folders without tokenizer.json. Makes a token of the vocabulary special, unless it is an added one already
  // or not in the vocabulary.
  void declare_special(const std::string& content);
  // The template that puts the bos and eos tokens around a text, as the configuration says or else by default.
  Result<Template> surroundings(const TokenizerConfig& config, const std::string& default_bos,
                                const std::string& default_eos, bool add_bos, const std::string& where) const;
};

// What the small configuration files beside a tokenizer say. All of them may be missing.
struct TokenizerConfig {
  static Result<TokenizerConfig> read(const std::filesystem::path& folder);

  std::string tokenizer_class;                       // without a final "Fast"; empty: not said
  std::string model_type;                            // of config.json; empty: not said
  std::optional<AddedToken> bos, eos, unknown, pad;  // without ids
  std::optional<bool> add_bos, add_eos, add_prefix_space, legacy;
  std::vector<AddedToken> added;   // from added_tokens_decoder and added_tokens.json, by id
  std::vector<std::string> files;  // those that exist, config.json excepted
};

// One reader per kind of file. They fill in everything but bos, eos and files, and call index_added_tokens().
Status read_tokenizer_json(const std::filesystem::path& file, Pipeline& pipeline);
Status parse_tokenizer_json(std::string_view text, const std::string& where, Pipeline& pipeline);
Status read_sentence_piece(const std::filesystem::path& file, const TokenizerConfig& config, Pipeline& pipeline);
Status read_vocabulary_and_merges(const std::filesystem::path& folder, const TokenizerConfig& config,
                                  Pipeline& pipeline);

}  // namespace nibble
