// For *_test.cpp files only: small checkpoints written by hand.
#pragma once

#include <cstring>
#include <functional>
#include <numeric>

#include "checkpoint/safetensors.h"
#include "core/half.h"
#include "core/json.h"
#include "core/testing.h"
#include "model/model.h"

namespace nibble::testing {

// A tensor that owns its bytes.
struct OwnedTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  Bytes bytes;

  TensorView view() const { return {name, dtype, shape, bytes}; }
};
using OwnedTensors = std::vector<OwnedTensor>;

inline int64_t count_of(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

// F32 values value(i), i row-major.
inline OwnedTensor tensor_of(std::string name, std::vector<int64_t> shape, const std::function<float(int64_t)>& value) {
  OwnedTensor tensor{std::move(name), DType::f32, shape, Bytes(static_cast<size_t>(count_of(shape)) * 4)};
  for (int64_t i = 0; i < count_of(shape); ++i) {
    const float v = value(i);
    std::memcpy(tensor.bytes.data() + 4 * i, &v, 4);
  }
  return tensor;
}

inline float float_at(const OwnedTensor& tensor, int64_t i) {
  float value;
  std::memcpy(&value, tensor.bytes.data() + 4 * i, 4);
  return value;
}

// The same values, rounded to F16 or BF16.
inline OwnedTensor as_type(const OwnedTensor& tensor, DType type) {
  OwnedTensor out{tensor.name, type, tensor.shape, Bytes(tensor.bytes.size() / 2)};
  for (int64_t i = 0; i < count_of(tensor.shape); ++i) {
    const float value = float_at(tensor, i);
    const uint16_t bits = type == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
    std::memcpy(out.bytes.data() + 2 * i, &bits, 2);
  }
  return out;
}

// Values that no two tensors and no two places in one share: 1/8192 .. 1, from a hash of the name.
inline OwnedTensor scattered(const std::string& name, std::vector<int64_t> shape) {
  const size_t seed = std::hash<std::string>()(name);
  return tensor_of(name, std::move(shape), [seed](int64_t i) {
    return static_cast<float>((seed + 4099 * static_cast<size_t>(i)) % 16384 + 1) / 8192.0f - 1.0f;
  });
}

inline OwnedTensor& find_in(OwnedTensors& tensors, std::string_view name) {
  for (OwnedTensor& tensor : tensors)
    if (tensor.name == name) return tensor;
  ADD_FAILURE() << "no tensor " << name;
  return tensors.front();
}

inline void write_weights(const std::filesystem::path& folder, const OwnedTensors& tensors) {
  std::vector<TensorView> views;
  for (const OwnedTensor& tensor : tensors) views.push_back(tensor.view());
  expect_ok(write_safetensors(folder / "model.safetensors", views));
}

inline void write_model(const std::filesystem::path& folder, const Json& config, const OwnedTensors& tensors) {
  std::filesystem::create_directories(folder);
  put(folder / "config.json", dump_json(config, 2));
  write_weights(folder, tensors);
}

// --- A checkpoint of each family, names and shapes written out from the families' own documentation ------------

struct Sample {
  Json config;
  OwnedTensors tensors;
};

inline Sample llama_sample() {
  Sample sample;
  sample.config = {{"architectures", {"LlamaForCausalLM"}},
                   {"model_type", "llama"},
                   {"hidden_size", 24},
                   {"intermediate_size", 20},
                   {"num_hidden_layers", 2},
                   {"num_attention_heads", 4},
                   {"num_key_value_heads", 2},
                   {"vocab_size", 11},
                   {"max_position_embeddings", 64},
                   {"rms_norm_eps", 1e-5},
                   {"hidden_act", "silu"},
                   {"torch_dtype", "float32"}};
  OwnedTensors& t = sample.tensors;
  t.push_back(scattered("model.embed_tokens.weight", {11, 24}));
  t.push_back(scattered("lm_head.weight", {11, 24}));
  t.push_back(scattered("model.norm.weight", {24}));
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    const std::string p = layer;
    t.push_back(scattered(p + "input_layernorm.weight", {24}));
    t.push_back(scattered(p + "post_attention_layernorm.weight", {24}));
    t.push_back(scattered(p + "self_attn.q_proj.weight", {24, 24}));
    t.push_back(scattered(p + "self_attn.k_proj.weight", {12, 24}));
    t.push_back(scattered(p + "self_attn.v_proj.weight", {12, 24}));
    t.push_back(scattered(p + "self_attn.o_proj.weight", {24, 24}));
    t.push_back(scattered(p + "mlp.gate_proj.weight", {20, 24}));
    t.push_back(scattered(p + "mlp.up_proj.weight", {20, 24}));
    t.push_back(scattered(p + "mlp.down_proj.weight", {24, 20}));
  }
  return sample;
}

// OPT; with `narrow` an embedding of 8 that is projected to the hidden 16, and post-norm, as in the 350m model.
inline Sample opt_sample(bool narrow = false) {
  Sample sample;
  sample.config = {{"architectures", {"OPTForCausalLM"}},
                   {"model_type", "opt"},
                   {"hidden_size", 16},
                   {"ffn_dim", 20},
                   {"num_hidden_layers", 1},
                   {"num_attention_heads", 2},
                   {"vocab_size", 9},
                   {"max_position_embeddings", 6},
                   {"word_embed_proj_dim", narrow ? 8 : 16},
                   {"do_layer_norm_before", !narrow},
                   {"activation_function", "relu"},
                   {"torch_dtype", "float16"}};
  OwnedTensors& t = sample.tensors;
  const std::string base = "model.decoder.", layer = base + "layers.0.";
  t.push_back(scattered(base + "embed_tokens.weight", {9, narrow ? 8 : 16}));
  t.push_back(scattered(base + "embed_positions.weight", {8, 16}));
  if (narrow) t.push_back(scattered(base + "project_in.weight", {16, 8}));
  if (narrow) t.push_back(scattered(base + "project_out.weight", {8, 16}));
  if (!narrow) t.push_back(scattered(base + "final_layer_norm.weight", {16}));
  if (!narrow) t.push_back(scattered(base + "final_layer_norm.bias", {16}));
  const auto linear = [&](const std::string& stem, int64_t n, int64_t k) {
    t.push_back(scattered(layer + stem + ".weight", {n, k}));
    t.push_back(scattered(layer + stem + ".bias", {n}));
  };
  for (const char* stem : {"q_proj", "k_proj", "v_proj", "out_proj"}) linear(std::string("self_attn.") + stem, 16, 16);
  linear("fc1", 20, 16);
  linear("fc2", 16, 20);
  for (const char* stem : {"self_attn_layer_norm", "final_layer_norm"}) {
    t.push_back(scattered(layer + stem + ".weight", {16}));
    t.push_back(scattered(layer + stem + ".bias", {16}));
  }
  return sample;
}

enum class FalconStyle { b7, b40, b11, rw };

// Falcon with 4 heads of 6, hidden 24; 40b and 11b styles with 2 key-value heads.
inline Sample falcon_sample(FalconStyle style) {
  const bool grouped = style == FalconStyle::b40 || style == FalconStyle::b11, rw = style == FalconStyle::rw;
  Sample sample;
  sample.config = {{"architectures", {"FalconForCausalLM"}},
                   {"model_type", "falcon"},
                   {"hidden_size", 24},
                   {"num_hidden_layers", 1},
                   {"num_attention_heads", 4},
                   {"vocab_size", 9},
                   {"ffn_hidden_size", 32},
                   {"alibi", rw},
                   {"bias", rw},
                   {"multi_query", !rw},
                   {"parallel_attn", !rw},
                   {"new_decoder_architecture", grouped},
                   {"torch_dtype", "bfloat16"}};
  if (grouped) sample.config["num_kv_heads"] = 2;
  if (style == FalconStyle::b11) sample.config["num_ln_in_parallel_attn"] = 1;
  OwnedTensors& t = sample.tensors;
  const std::string layer = "transformer.h.0.";
  const auto linear = [&](const std::string& stem, int64_t n, int64_t k) {
    t.push_back(scattered(layer + stem + ".weight", {n, k}));
    if (rw) t.push_back(scattered(layer + stem + ".bias", {n}));
  };
  const auto norm = [&](const std::string& stem) {
    t.push_back(scattered(stem + ".weight", {24}));
    t.push_back(scattered(stem + ".bias", {24}));
  };
  t.push_back(scattered("transformer.word_embeddings.weight", {9, 24}));
  norm("transformer.ln_f");
  linear("self_attention.query_key_value", rw ? 72 : grouped ? 48 : 36, 24);
  linear("self_attention.dense", 24, 24);
  linear("mlp.dense_h_to_4h", 32, 24);
  linear("mlp.dense_4h_to_h", 24, 32);
  if (style == FalconStyle::b40) norm(layer + "ln_attn");
  if (style == FalconStyle::b40) norm(layer + "ln_mlp");
  if (style != FalconStyle::b40) norm(layer + "input_layernorm");
  if (rw) norm(layer + "post_attention_layernorm");
  return sample;
}

inline float value_at(const LinearWeight& weight, int64_t n, int64_t k) {
  std::vector<float> row(static_cast<size_t>(weight.columns));
  decode_row(weight, n, row);
  return row[static_cast<size_t>(k)];
}

}  // namespace nibble::testing
