// A tokenizer for a model that has none of its own: every id of the vocabulary stands for something, every text can be
// encoded, and nothing about it was learned.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace nibble {

struct SpecialIds {
  std::optional<int64_t> bos, eos, pad;  // bos and eos may be the same
};

// The tokenizer.json of a byte-level BPE with exactly `vocabulary` ids: the special tokens at the ids given; in the
// other ids, ascending, the 256 bytes, then pairs and triples of printable ASCII characters until the vocabulary is
// full. A text begins with bos. `vocabulary` is at least 256 plus the number of special tokens and at most a few
// 100,000.
std::string byte_tokenizer_json(int64_t vocabulary, const SpecialIds& special);
// The tokenizer_config.json beside it.
std::string byte_tokenizer_config(const SpecialIds& special);

}  // namespace nibble
