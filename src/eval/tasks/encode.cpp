#include "eval/tasks/encode.h"

#include <algorithm>
#include <string>

namespace nibble {
namespace {

bool is_continuation_byte(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

// The length in bytes of the white space character that the text ends with, as Python's str.isspace sees it, or 0.
size_t space_at_end(std::string_view text) {
  if (text.empty()) return 0;
  size_t at = text.size() - 1;
  while (at > 0 && is_continuation_byte(text[at])) --at;
  const std::string_view last = text.substr(at);
  if (last.size() == 1) {
    const char c = last[0];
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f') ? 1 : 0;
  }
  constexpr std::string_view kSpaces[] = {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
                                          "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
                                          "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  return std::find(std::begin(kSpaces), std::end(kSpaces), last) != std::end(kSpaces) ? last.size() : 0;
}

size_t length_without_space(std::string_view text) {
  while (const size_t count = space_at_end(text)) text.remove_suffix(count);
  return text.size();
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text, bool special_tokens) {
  const auto first = tokenizer.bos() ? tokenizer.bos() : tokenizer.eos();
  const auto spelling = first ? tokenizer.token(*first) : std::nullopt;
  const bool has_it = spelling && !spelling->empty() && text.starts_with(*spelling);
  return tokenizer.encode(text, special_tokens && !has_it);
}

}  // namespace

Result<Continuation> encode_continuation(const Tokenizer& tokenizer, std::string_view context,
                                         std::string_view continuation, bool special_tokens, int64_t positions) {
  const std::string text = std::string(context) + std::string(continuation);
  Continuation out;
  out.ids = encode(tokenizer, context.substr(0, length_without_space(context)), special_tokens);
  out.start = static_cast<int64_t>(out.ids.size());
  const std::vector<int32_t> whole = encode(tokenizer, text, special_tokens);
  if (out.start == 0) return fail(ErrorCode::corrupt, "the context has no tokens");
  if (static_cast<int64_t>(whole.size()) <= out.start)
    return fail(ErrorCode::corrupt, "the answer \"{}\" adds no token to its context", continuation);
  out.ids.insert(out.ids.end(), whole.begin() + out.start, whole.end());
  if (out.tokens() > positions)
    return fail(ErrorCode::usage, "an answer has {} tokens, which do not fit the model's {} positions", out.tokens(),
                positions);
  const int64_t excess = static_cast<int64_t>(out.ids.size()) - (positions + 1);
  if (excess > 0) {
    out.ids.erase(out.ids.begin(), out.ids.begin() + excess);
    out.start -= excess;
    out.truncated = true;
  }
  return out;
}

}  // namespace nibble
