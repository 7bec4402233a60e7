// A random LLaMA of a few thousand weights as a Hugging Face folder, for tests that run the whole program.
#pragma once

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "core/file.h"
#include "core/half.h"
#include "core/json.h"
#include "core/random.h"

namespace nibble::testing {

struct TinyShape {
  int64_t hidden = 64, layers = 2, heads = 4, kv_heads = 2, ffn = 128, vocabulary = 258, positions = 64;
  bool attention_bias = false;
  bool tied_head = false;
};

// The 256 characters by which byte-level BPE spells bytes: printable ones stand for themselves, the others for
// U+0100 onwards in order.
inline std::string spelling_of_byte(int byte, int& next_free) {
  const bool itself = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
  const int code = itself ? byte : 256 + next_free++;
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

// One token per byte, then <s> (256) and </s> (257); <s> is put before every text.
inline Json tiny_tokenizer() {
  Json vocabulary = Json::object();
  int next_free = 0;
  for (int byte = 0; byte < 256; ++byte) vocabulary[spelling_of_byte(byte, next_free)] = byte;
  Json added = Json::array();
  for (const auto& [id, text] : {std::pair(256, "<s>"), {257, "</s>"}})
    added.push_back({{"id", id},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const Json start = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
             second = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  const Json special = {{"<s>", {{"id", "<s>"}, {"ids", {256}}, {"tokens", {"<s>"}}}}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", bytes},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single", {start, text}},
            {"pair", {start, text, second}},
            {"special_tokens", special}}},
          {"decoder", bytes},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocabulary},
            {"merges", Json::array()}}}};
}

inline Json tiny_config(const TinyShape& shape) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_act", "silu"},
          {"hidden_size", shape.hidden},
          {"intermediate_size", shape.ffn},
          {"num_hidden_layers", shape.layers},
          {"num_attention_heads", shape.heads},
          {"num_key_value_heads", shape.kv_heads},
          {"max_position_embeddings", shape.positions},
          {"vocab_size", shape.vocabulary},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", shape.tied_head},
          {"attention_bias", shape.attention_bias},
          {"bos_token_id", 256},
          {"eos_token_id", 257},
          {"torch_dtype", "float16"}};
}

// Collects random float16 tensors and writes them.
class TinyWeights {
 public:
  void add(const std::string& name, std::vector<int64_t> shape, float mean, float spread) {
    int64_t count = 1;
    for (int64_t extent : shape) count *= extent;
    auto& values = storage_.emplace_back(static_cast<size_t>(count));
    for (uint16_t& value : values) value = f32_to_f16(mean + spread * random_.normal());
    tensors_.push_back({name, DType::f16, std::move(shape), std::as_bytes(std::span(values))});
  }
  Status write(const std::filesystem::path& path) const { return write_safetensors(path, tensors_); }

 private:
  Random random_{11};
  std::vector<std::vector<uint16_t>> storage_;
  std::vector<TensorView> tensors_;
};

inline Status write_tiny_model(const std::filesystem::path& folder, const TinyShape& shape = {}) {
  std::filesystem::create_directories(folder);
  TinyWeights weights;
  const int64_t kv = shape.hidden / shape.heads * shape.kv_heads;
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
    weights.add(name, {rows, columns}, 0, 1 / std::sqrt(static_cast<float>(columns)));
  };
  weights.add("model.embed_tokens.weight", {shape.vocabulary, shape.hidden}, 0, 1);
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::string at = "model.layers." + std::to_string(layer) + ".";
    weights.add(at + "input_layernorm.weight", {shape.hidden}, 1, 0.2f);
    weights.add(at + "post_attention_layernorm.weight", {shape.hidden}, 1, 0.2f);
    matrix(at + "self_attn.q_proj.weight", shape.hidden, shape.hidden);
    matrix(at + "self_attn.k_proj.weight", kv, shape.hidden);
    matrix(at + "self_attn.v_proj.weight", kv, shape.hidden);
    matrix(at + "self_attn.o_proj.weight", shape.hidden, shape.hidden);
    for (const auto& [name, rows] : {std::pair("q", shape.hidden), {"k", kv}, {"v", kv}, {"o", shape.hidden}})
      if (shape.attention_bias) weights.add(at + "self_attn." + name + "_proj.bias", {rows}, 0, 0.1f);
    matrix(at + "mlp.gate_proj.weight", shape.ffn, shape.hidden);
    matrix(at + "mlp.up_proj.weight", shape.ffn, shape.hidden);
    matrix(at + "mlp.down_proj.weight", shape.hidden, shape.ffn);
  }
  weights.add("model.norm.weight", {shape.hidden}, 1, 0.2f);
  if (!shape.tied_head) matrix("lm_head.weight", shape.vocabulary, shape.hidden);
  NIBBLE_DO(weights.write(folder / "model.safetensors"));
  NIBBLE_DO(write_durably(folder / "tokenizer.json", dump_json(tiny_tokenizer())));
  return write_durably(folder / "config.json", dump_json(tiny_config(shape), 2));
}

}  // namespace nibble::testing
