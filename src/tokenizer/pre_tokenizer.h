// Pre-tokenizers: split normalized text into the pieces that the model sees one by one. One class per type of
// tokenizer.json, in pre_tokenizer.cpp.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/result.h"
#include "tokenizer/work.h"

namespace nibble {

// A piece is never empty. Its bytes belong to the normalized text or to the store of rewritten text.
struct Piece {
  std::string_view text;
  bool at_start;  // its first character is (made from) the first character of the whole input
};

struct Pieces {
  std::vector<Piece> list;
  std::deque<std::string> rewritten;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces, Work& work) const = 0;
  // As Normalizer::growth, for all pieces together.
  virtual double growth() const { return 1; }
};

Result<std::unique_ptr<PreTokenizer>> read_pre_tokenizer(const Json& value, const std::string& where);

// The pre-tokenizers of folders that have no tokenizer.json.
std::unique_ptr<PreTokenizer> make_gpt2_pre_tokenizer(bool add_prefix_space);
std::unique_ptr<PreTokenizer> make_qwen2_pre_tokenizer();

}  // namespace nibble
