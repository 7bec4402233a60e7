#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <tuple>

#include "tokenizer/unicode.h"

namespace nibble {
namespace {

bool starts_with_word(std::string_view text) {
  size_t offset = 0;
  return !text.empty() && is_word(next_code_point(text, offset));
}

size_t last_code_point(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && starts_with_word(text.substr(last_code_point(text)));
}

// Where the blanks at the end of the text begin.
size_t trailing_blanks(std::string_view text) {
  while (!text.empty()) {
    size_t at = last_code_point(text), offset = at;
    if (!is_whitespace(next_code_point(text, offset))) break;
    text = text.substr(0, at);
  }
  return text.size();
}

size_t leading_blanks(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    size_t next = offset;
    if (!is_whitespace(next_code_point(text, next))) break;
    offset = next;
  }
  return offset;
}

unsigned char byte_at(const std::string& text, size_t i) { return static_cast<unsigned char>(text[i]); }

}  // namespace

AddedTokenSearch::AddedTokenSearch(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return std::tie(a.text, a.id) < std::tie(b.text, b.id); });
  auto same = [](const Entry& a, const Entry& b) { return a.text == b.text; };
  entries_.erase(std::unique(entries_.begin(), entries_.end(), same), entries_.end());
  for (const Entry& entry : entries_) ++by_first_byte_[byte_at(entry.text, 0) + 1u];
  for (size_t b = 1; b < by_first_byte_.size(); ++b) by_first_byte_[b] += by_first_byte_[b - 1];
}

// The range of entries that agree with the text so far is narrowed byte by byte; it is sorted, so an entry that
// ends here is its first.
const AddedTokenSearch::Entry* AddedTokenSearch::longest_at(std::string_view text) const {
  auto first_byte = static_cast<unsigned char>(text[0]);
  auto low = entries_.begin() + by_first_byte_[first_byte], high = entries_.begin() + by_first_byte_[first_byte + 1u];
  const Entry* best = nullptr;
  for (size_t depth = 1; low != high; ++depth) {
    if (low->text.size() == depth) best = &*low++;
    if (depth == text.size()) break;
    auto wanted = static_cast<unsigned char>(text[depth]);
    low = std::lower_bound(low, high, wanted,
                           [&](const Entry& entry, unsigned char byte) { return byte_at(entry.text, depth) < byte; });
    high = std::upper_bound(low, high, wanted,
                            [&](unsigned char byte, const Entry& entry) { return byte < byte_at(entry.text, depth); });
  }
  return best;
}

std::vector<AddedTokenSearch::Stretch> AddedTokenSearch::cut(std::string_view text) const {
  std::vector<Stretch> stretches;
  size_t covered = 0;
  for (size_t at = 0; at < text.size() && !entries_.empty();) {
    const Entry* entry = longest_at(text.substr(at));
    if (entry == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + entry->text.size();
    at = end;
    if (entry->single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (entry->lstrip) begin = std::max(trailing_blanks(text.substr(0, begin)), covered);
    if (entry->rstrip) end += leading_blanks(text.substr(end));
    if (covered < begin) stretches.push_back({covered, begin, -1});
    stretches.push_back({begin, end, entry->id});
    covered = end;
  }
  if (covered < text.size()) stretches.push_back({covered, text.size(), -1});
  return stretches;
}

}  // namespace nibble
