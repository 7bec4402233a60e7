// For *_test.cpp files only: a tokenizer of bytes, and a model whose likelihoods are known.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "core/json.h"
#include "model/model.h"
#include "tokenizer/tokenizer.h"

namespace nibble::testing {

inline constexpr int32_t kStart = 256;  // <s>
inline constexpr int64_t kByteVocabulary = 257;

// Byte-level BPE without merges: the id of a byte is its value, and <s> (256) is put before every text.
inline Tokenizer byte_tokenizer() {
  Json vocabulary = Json::object();
  int next_free = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int code = itself ? byte : next_free++;
    const char utf8[] = {static_cast<char>(code < 0x80 ? code : 0xC0 | code >> 6),
                         static_cast<char>(0x80 | (code & 0x3F))};
    vocabulary[std::string(utf8, code < 0x80 ? 1 : 2)] = byte;
  }
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const Json start = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const auto part = [](const char* id, int type) { return Json{{"Sequence", {{"id", id}, {"type_id", type}}}}; };
  const Json added = {{"id", kStart},    {"content", "<s>"},    {"single_word", false}, {"lstrip", false},
                      {"rstrip", false}, {"normalized", false}, {"special", true}};
  const Json template_of_text = {
      {"type", "TemplateProcessing"},
      {"single", {start, part("A", 0)}},
      {"pair", {start, part("A", 0), part("B", 1)}},
      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {kStart}}, {"tokens", {"<s>"}}}}}}};
  const Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", false},
                      {"vocab", vocabulary},
                      {"merges", Json::array()}};
  const Json json = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", Json::array({added})},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", bytes},
                     {"post_processor", template_of_text},
                     {"decoder", bytes},
                     {"model", model}};
  auto tokenizer = Tokenizer::parse(dump_json(json), "byte tokenizer");
  NIBBLE_CHECK(tokenizer.has_value());
  return *std::move(tokenizer);
}

// A model that sees only the last token: the logit of `next` after `last` is table(last, next), exactly. Its embedding
// is the identity, its blocks add nothing, and the head is the table.
class BigramSource : public ModelSource {
 public:
  explicit BigramSource(std::function<float(int32_t last, int32_t next)> table, int64_t positions = 512)
      : table_(std::move(table)) {
    spec_.family = "llama";
    spec_.vocabulary = spec_.hidden = spec_.embedding = kByteVocabulary;
    spec_.layers = spec_.heads = spec_.kv_heads = 1;
    spec_.head_dim = 2;
    spec_.ffn = 8;
    spec_.max_positions = positions;
    spec_.final_norm = false;
    spec_.gated = true;
  }

  Result<GlobalWeights> globals() const override {
    GlobalWeights out;
    out.embedding = matrix(kByteVocabulary, kByteVocabulary,
                           [](int64_t row, int64_t column) { return row == column ? 1.0f : 0.0f; });
    out.head = matrix(kByteVocabulary, kByteVocabulary, [&](int64_t next, int64_t last) {
      return table_(static_cast<int32_t>(last), static_cast<int32_t>(next));
    });
    return out;
  }

  Result<BlockWeights> block(int64_t) const override {
    BlockWeights out;
    out.attention_norm.gain = out.mlp_norm.gain = std::vector<float>(static_cast<size_t>(spec_.hidden), 1.0f);
    for (Role role : kAllRoles) {
      const Shape shape = shape_of(spec_, role);
      out[role] = matrix(shape.rows, shape.columns, [](int64_t, int64_t) { return 0.0f; });
    }
    return out;
  }

  int64_t file_bytes() const override { return 0; }

 private:
  static LinearWeight matrix(int64_t rows, int64_t columns, const std::function<float(int64_t, int64_t)>& value) {
    std::vector<float> values;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column) values.push_back(value(row, column));
    const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
    return float_linear(rows, columns, Levels::f32, Bytes(bytes, bytes + values.size() * sizeof(float)), {});
  }

  std::function<float(int32_t, int32_t)> table_;
};

// What such a model must say of `text` after `last`, its bytes one after the other.
inline double bigram_likelihood(const std::function<float(int32_t, int32_t)>& table, int32_t last,
                                std::string_view text) {
  double sum = 0;
  for (char c : text) {
    const auto next = static_cast<int32_t>(static_cast<unsigned char>(c));
    double total = 0;
    for (int32_t other = 0; other < kByteVocabulary; ++other) total += std::exp(double{table(last, other)});
    sum += table(last, next) - std::log(total);
    last = next;
  }
  return sum;
}

}  // namespace nibble::testing
