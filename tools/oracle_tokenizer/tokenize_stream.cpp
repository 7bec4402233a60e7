// Encodes and decodes records from the standard input, for comparison with another tokenizer.
//
//   tokenize_stream FOLDER
//
// Input records (little-endian 32-bit integers):
//   'e' (one byte), length, that many bytes of text    -> encoded with special tokens
//   'p' the same, without them
//   'd' count, that many ids                            -> decoded, special tokens kept
//   's' the same, special tokens skipped, through the streaming decoder
// Output record: for 'e' and 'p' a count and ids, for 'd' and 's' a length and bytes. Errors go to the standard error
// output and end the program with 1.
#include <cstdio>
#include <cstring>

#include "tokenizer/tokenizer.h"

namespace {

using nibble::StreamDecoder;
using nibble::Tokenizer;

bool read_exactly(void* data, size_t bytes) { return std::fread(data, 1, bytes, stdin) == bytes; }

template <class T>
bool read_record(T& items) {
  uint32_t count = 0;
  if (!read_exactly(&count, sizeof count) || count > (1u << 28)) return false;
  items.resize(count);
  return read_exactly(items.data(), count * sizeof(items[0]));
}

template <class T>
void write_record(const T& items) {
  auto count = static_cast<uint32_t>(items.size());
  std::fwrite(&count, sizeof count, 1, stdout);
  std::fwrite(items.data(), sizeof(items[0]), items.size(), stdout);
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

bool answer(const Tokenizer& tokenizer, int kind) {
  std::string text;
  std::vector<int32_t> ids;
  if (kind == 'e' || kind == 'p') {
    if (!read_record(text)) return false;
    write_record(tokenizer.encode(text, kind == 'e'));
    return true;
  }
  if ((kind != 'd' && kind != 's') || !read_record(ids)) return false;
  write_record(kind == 'd' ? tokenizer.decode(ids, false) : streamed(tokenizer, ids));
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: tokenize_stream FOLDER\n"), 2;
  auto tokenizer = Tokenizer::load(argv[1]);
  if (!tokenizer) return std::fprintf(stderr, "%s\n", tokenizer.error().message.c_str()), 1;
  for (int kind; (kind = std::getchar()) != EOF;)
    if (!answer(*tokenizer, kind)) return std::fprintf(stderr, "bad record\n"), 1;
  return 0;
}
