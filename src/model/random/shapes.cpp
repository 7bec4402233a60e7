#include "model/random/shapes.h"

#include <algorithm>

namespace nibble {
namespace {

constexpr KnownShape kShapes[] = {
    {"llama-2-7b", R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 32000,
  "hidden_size": 4096,
  "intermediate_size": 11008,
  "num_hidden_layers": 32,
  "num_attention_heads": 32,
  "num_key_value_heads": 32,
  "max_position_embeddings": 4096,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-05,
  "rope_scaling": null,
  "rope_theta": 10000.0,
  "attention_bias": false,
  "initializer_range": 0.02,
  "pretraining_tp": 1,
  "tie_word_embeddings": false,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "torch_dtype": "float16",
  "use_cache": true
})",
     "LLaMA, 4096 wide, MLP 11008, 32 heads, 32 layers, vocabulary 32000"},
    {"llama-3-8b", R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 128256,
  "hidden_size": 4096,
  "intermediate_size": 14336,
  "num_hidden_layers": 32,
  "num_attention_heads": 32,
  "num_key_value_heads": 8,
  "max_position_embeddings": 8192,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-05,
  "rope_scaling": null,
  "rope_theta": 500000.0,
  "attention_bias": false,
  "initializer_range": 0.02,
  "pretraining_tp": 1,
  "tie_word_embeddings": false,
  "bos_token_id": 128000,
  "eos_token_id": 128001,
  "torch_dtype": "bfloat16",
  "use_cache": true
})",
     "LLaMA, 4096 wide, MLP 14336, 32 heads over 8 of keys and values, 32 layers, vocabulary 128256"},
    {"tinyllama-1.1b", R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 32000,
  "hidden_size": 2048,
  "intermediate_size": 5632,
  "num_hidden_layers": 22,
  "num_attention_heads": 32,
  "num_key_value_heads": 4,
  "max_position_embeddings": 2048,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-05,
  "rope_scaling": null,
  "rope_theta": 10000.0,
  "attention_bias": false,
  "initializer_range": 0.02,
  "pretraining_tp": 1,
  "tie_word_embeddings": false,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "torch_dtype": "bfloat16",
  "use_cache": true
})",
     "LLaMA, 2048 wide, MLP 5632, 32 heads over 4 of keys and values, 22 layers, vocabulary 32000"},
    {"opt-6.7b", R"({
  "architectures": ["OPTForCausalLM"],
  "model_type": "opt",
  "vocab_size": 50272,
  "hidden_size": 4096,
  "word_embed_proj_dim": 4096,
  "ffn_dim": 16384,
  "num_hidden_layers": 32,
  "num_attention_heads": 32,
  "max_position_embeddings": 2048,
  "activation_function": "relu",
  "do_layer_norm_before": true,
  "_remove_final_layer_norm": false,
  "attention_dropout": 0.0,
  "dropout": 0.1,
  "layerdrop": 0.0,
  "init_std": 0.02,
  "bos_token_id": 2,
  "eos_token_id": 2,
  "pad_token_id": 1,
  "prefix": "</s>",
  "torch_dtype": "float16",
  "use_cache": true
})",
     "OPT, 4096 wide, MLP 16384, 32 heads, 32 layers, biases, vocabulary 50272"},
    {"falcon-7b", R"({
  "architectures": ["FalconForCausalLM"],
  "model_type": "falcon",
  "vocab_size": 65024,
  "hidden_size": 4544,
  "num_hidden_layers": 32,
  "num_attention_heads": 71,
  "num_kv_heads": 71,
  "multi_query": true,
  "parallel_attn": true,
  "new_decoder_architecture": false,
  "alibi": false,
  "bias": false,
  "layer_norm_epsilon": 1e-05,
  "attention_dropout": 0.0,
  "hidden_dropout": 0.0,
  "initializer_range": 0.02,
  "apply_residual_connection_post_layernorm": false,
  "bos_token_id": 11,
  "eos_token_id": 11,
  "torch_dtype": "bfloat16",
  "use_cache": true
})",
     "Falcon, 4544 wide, MLP 18176, 71 heads over 1 of keys and values, 32 layers, vocabulary 65024"},
    {"tiny", R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 512,
  "hidden_size": 128,
  "intermediate_size": 352,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 512,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-05,
  "rope_scaling": null,
  "rope_theta": 10000.0,
  "attention_bias": false,
  "initializer_range": 0.02,
  "tie_word_embeddings": false,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "torch_dtype": "float16",
  "use_cache": true
})",
     "no published model: LLaMA, 128 wide, 2 layers, vocabulary 512, for trying things out"},
};

}  // namespace

std::span<const KnownShape> known_shapes() { return kShapes; }

const KnownShape* find_known_shape(std::string_view name) {
  const auto* row =
      std::find_if(std::begin(kShapes), std::end(kShapes), [&](const KnownShape& shape) { return shape.name == name; });
  return row == std::end(kShapes) ? nullptr : row;
}

}  // namespace nibble
