#include "model/random/byte_tokenizer.h"

#include <map>
#include <vector>

#include "core/json.h"
#include "core/result.h"

namespace nibble {
namespace {

constexpr int kFirstPrintable = 0x20, kPrintable = 95;
constexpr const char *kBos = "<s>", *kEos = "</s>", *kPad = "<pad>";

std::string utf8(int code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

// The character that stands for each byte in byte-level vocabularies: itself where it can be seen, or else one of the
// characters from U+0100 on.
std::vector<std::string> byte_symbols() {
  std::vector<std::string> symbols;
  int unseen = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool seen = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    symbols.push_back(utf8(seen ? byte : 0x100 + unseen++));
  }
  return symbols;
}

std::map<int64_t, std::string> special_tokens(const SpecialIds& special) {
  std::map<int64_t, std::string> tokens;
  if (special.pad) tokens[*special.pad] = kPad;
  if (special.bos) tokens[*special.bos] = kBos;
  if (special.eos) tokens[*special.eos] = kEos;
  return tokens;
}

// The ordinary tokens one after the other, each with the merge that makes it.
class Tokens {
 public:
  struct Token {
    std::string text, left, right;  // left and right are empty for a byte
  };
  Token next() {
    const int64_t i = count_++;
    if (i < 256) return {symbols_[static_cast<size_t>(i)], "", ""};
    const int64_t pair = i - 256, triple = pair - kPrintable * kPrintable;
    const int64_t left_pair = triple < 0 ? pair : triple / kPrintable;
    const std::string &a = printable(left_pair / kPrintable), &b = printable(left_pair % kPrintable);
    if (triple < 0) return {a + b, a, b};
    const std::string& c = printable(triple % kPrintable);
    return {a + b + c, a + b, c};
  }

 private:
  const std::string& printable(int64_t i) const { return symbols_[static_cast<size_t>(kFirstPrintable + i)]; }
  const std::vector<std::string> symbols_ = byte_symbols();
  int64_t count_ = 0;
};

std::string json_text(const std::string& text) { return dump_json(Json(text)); }

std::string added_token(int64_t id, const std::string& content) {
  return fmt::format(
      R"({{"id": {}, "content": {}, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, )"
      R"("special": true}})",
      id, json_text(content));
}

std::string bos_template(int64_t id, const std::string& content) {
  const std::string bos = json_text(content);
  return fmt::format(
      R"({{"type": "TemplateProcessing", "single": [{{"SpecialToken": {{"id": {0}, "type_id": 0}}}}, )"
      R"({{"Sequence": {{"id": "A", "type_id": 0}}}}], "pair": [{{"Sequence": {{"id": "A", "type_id": 0}}}}, )"
      R"({{"Sequence": {{"id": "B", "type_id": 1}}}}], "special_tokens": {{{0}: {{"id": {0}, "ids": [{1}], )"
      R"("tokens": [{0}]}}}}}})",
      bos, id);
}

}  // namespace

std::string byte_tokenizer_json(int64_t vocabulary, const SpecialIds& special) {
  const std::map<int64_t, std::string> specials = special_tokens(special);
  std::string added, vocab, merges;
  const auto append = [](std::string& list, const std::string& item) { list += (list.empty() ? "" : ",\n") + item; };
  Tokens tokens;
  for (int64_t id = 0; id < vocabulary; ++id) {
    const auto found = specials.find(id);
    const Tokens::Token token = found == specials.end() ? tokens.next() : Tokens::Token{found->second, "", ""};
    append(vocab, fmt::format("{}: {}", json_text(token.text), id));
    if (found != specials.end()) append(added, added_token(id, token.text));
    if (!token.left.empty()) append(merges, fmt::format("[{}, {}]", json_text(token.left), json_text(token.right)));
  }
  const std::string post = special.bos ? bos_template(*special.bos, specials.at(*special.bos)) : "null";
  constexpr const char* kByteLevel =
      R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";
  return fmt::format(
      "{{\"version\": \"1.0\", \"truncation\": null, \"padding\": null,\n\"added_tokens\": [\n{}\n],\n"
      "\"normalizer\": null, \"pre_tokenizer\": {},\n\"post_processor\": {},\n\"decoder\": {},\n"
      "\"model\": {{\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null, "
      "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false,\n"
      "\"vocab\": {{\n{}\n}},\n\"merges\": [\n{}\n]}}}}\n",
      added, kByteLevel, post, kByteLevel, vocab, merges);
}

std::string byte_tokenizer_config(const SpecialIds& special) {
  const std::map<int64_t, std::string> specials = special_tokens(special);
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  if (special.bos) config["bos_token"] = specials.at(*special.bos);
  if (special.eos) config["eos_token"] = specials.at(*special.eos);
  if (special.pad) config["pad_token"] = specials.at(*special.pad);
  config["clean_up_tokenization_spaces"] = false;
  return dump_json(config, 2) + "\n";
}

}  // namespace nibble
