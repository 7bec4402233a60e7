// A tokenizer.json, a zero byte, and a text. Whatever loads must encode any text to ids that it has, decode them to
// UTF-8, and stream as it decodes.
#include <cstdint>
#include <string>
#include <string_view>

#include "core/result.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace {

using namespace nibble;

void check_ids(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  for (int32_t id : ids) {
    NIBBLE_CHECK(id >= 0 && id < tokenizer.vocabulary_size());
    NIBBLE_CHECK(tokenizer.token(id).has_value());
  }
}

void check_streaming(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  StreamDecoder decoder(tokenizer, skip);
  std::string streamed;
  for (int32_t id : ids) {
    const std::string part = decoder.push(id);
    NIBBLE_CHECK(is_utf8(part));
    streamed += part;
  }
  streamed += decoder.finish();
  NIBBLE_CHECK(streamed == tokenizer.decode(ids, skip));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  auto tokenizer = Tokenizer::parse(input.substr(0, end), "fuzz");
  if (!tokenizer) {
    NIBBLE_CHECK(tokenizer.error().message.starts_with("fuzz") && tokenizer.error().message.size() < 20000);
    return 0;
  }
  const std::string_view text = end == std::string_view::npos ? std::string_view() : input.substr(end + 1);
  std::vector<int32_t> ids = tokenizer->encode(text);
  check_ids(*tokenizer, ids);
  check_ids(*tokenizer, tokenizer->encode(text, false));
  for (char c : text) ids.push_back(static_cast<unsigned char>(c) - 2);
  check_streaming(*tokenizer, ids, true);
  check_streaming(*tokenizer, ids, false);
  return 0;
}
