// Added tokens: strings that are cut out of the text before the model sees it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the blanks before it along
  bool rstrip = false;       // and those after it
  bool normalized = false;   // is looked for in the normalized text, itself normalized
  bool special = false;      // left out when decoding skips special tokens
};

// A set of strings and the leftmost-longest search for all of them at once.
class AddedTokenSearch {
 public:
  struct Entry {
    std::string text;  // what is looked for; not empty
    int32_t id;
    bool single_word, lstrip, rstrip;
  };
  // A stretch of the text that is a token (id >= 0) or plain text (id -1). Token stretches include stripped blanks.
  struct Stretch {
    size_t begin, end;
    int32_t id;
  };

  AddedTokenSearch() = default;
  // Of equal texts the one with the smallest id is kept.
  explicit AddedTokenSearch(std::vector<Entry> entries);
  std::vector<Stretch> cut(std::string_view text) const;

 private:
  const Entry* longest_at(std::string_view text) const;
  std::vector<Entry> entries_;                 // sorted by text
  std::array<uint32_t, 257> by_first_byte_{};  // entries_ [by_first_byte_[b], by_first_byte_[b + 1])
};

}  // namespace nibble
