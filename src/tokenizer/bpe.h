// Byte-pair encoding: a piece starts as its characters; the adjacent pair with the lowest merge rank (the leftmost
// of equal ones) becomes one token, until no pair has a merge.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/result.h"
#include "tokenizer/model.h"
#include "tokenizer/vocabulary.h"

namespace nibble {

struct BpeOptions {
  std::optional<std::string> unknown;  // stands for characters outside the vocabulary; without it they are dropped
  std::string continuing_prefix;       // how a symbol that does not begin a piece starts in the vocabulary
  std::string end_suffix;              // how the last symbol of a piece ends in the vocabulary
  bool fuse_unknown = false;           // adjacent unknown characters become one token
  bool byte_fallback = false;          // unknown characters become <0x00> to <0xFF> when the vocabulary has them
  bool ignore_merges = false;          // a piece that is a token needs no merges
};

using Merges = std::vector<std::pair<std::string, std::string>>;

// `vocabulary` must outlive the model. Merges that name absent tokens are refused; `where` names their file and key.
Result<std::unique_ptr<TokenModel>> make_bpe(const Vocabulary& vocabulary, const Merges& merges, BpeOptions options,
                                             const std::string& where);

}  // namespace nibble
