// LLaMA 1, 2 and 3, and what differs from them by a knob: Mistral, Qwen2.
//
//   x += O(attention(rope(Q n), rope(K n), V n)),  n = RMSNorm(x)
//   x += Down(act(Gate m) * Up m),                 m = RMSNorm(x)
#include <algorithm>

#include "model/families/keys.h"
#include "model/families/rows.h"

namespace nibble {
namespace {

Result<Spec> read_spec(JsonReader& config, int64_t default_positions) {
  Spec spec;
  NIBBLE_TRY(spec.vocabulary, read_dimension(config, {"vocab_size"}, kMaxVocabulary));
  NIBBLE_TRY(spec.hidden, read_dimension(config, {"hidden_size"}, kMaxHidden));
  NIBBLE_TRY(spec.layers, read_dimension(config, {"num_hidden_layers"}, kMaxLayers));
  NIBBLE_TRY(spec.heads, read_dimension(config, {"num_attention_heads"}, kMaxHeads));
  NIBBLE_TRY(spec.kv_heads, read_dimension(config, {"num_key_value_heads"}, kMaxHeads, spec.heads));
  NIBBLE_TRY(spec.head_dim, read_head_dim(config, spec.hidden, spec.heads));
  NIBBLE_TRY(spec.ffn, read_dimension(config, {"intermediate_size"}, kMaxFfn));
  NIBBLE_TRY(spec.max_positions, read_dimension(config, {"max_position_embeddings"}, kMaxPositions, default_positions));
  NIBBLE_TRY(spec.norm_eps, config.number("rms_norm_eps", 1e-20, 1, 1e-6));
  NIBBLE_TRY(spec.activation, read_activation(config, "hidden_act", "silu"));
  NIBBLE_TRY(spec.rope, read_rope(config, spec.max_positions));
  NIBBLE_TRY(spec.tied_head, config.boolean("tie_word_embeddings", false));
  spec.embedding = spec.hidden;
  spec.norm = Norm::rms;
  spec.gated = true;
  spec.positions = Positions::rotary;
  NIBBLE_DO(refuse_other_maths(config));
  return spec;
}

Layout layout_of(const Spec& spec) {
  Layout layout;
  layout.bases = {"model.", ""};
  layout.blocks = "layers.";
  layout.linears = {whole(spec, Role::q, "self_attn.q_proj"), whole(spec, Role::k, "self_attn.k_proj"),
                    whole(spec, Role::v, "self_attn.v_proj"), whole(spec, Role::o, "self_attn.o_proj"),
                    whole(spec, Role::gate, "mlp.gate_proj"), whole(spec, Role::up, "mlp.up_proj"),
                    whole(spec, Role::down, "mlp.down_proj")};
  layout.attention_norm = "input_layernorm";
  layout.mlp_norm = "post_attention_layernorm";
  layout.embedding = "embed_tokens";
  layout.final_norm = "norm";
  return layout;
}

// Within the window a sliding attention sees everything, so a model that has one is exact up to there: positions
// beyond the window are not offered rather than computed otherwise.
Status cap_positions(JsonReader& config, Spec& spec, int64_t fallback) {
  NIBBLE_TRY(const int64_t window, config.integer("sliding_window", 1, kMaxPositions, fallback));
  spec.max_positions = std::min(spec.max_positions, window);
  return {};
}

// Whether "layer_types" gives some layer a sliding window; `otherwise` without the key.
Result<bool> some_layer_slides(JsonReader& config, bool otherwise) {
  if (!config.has("layer_types")) return otherwise;
  NIBBLE_TRY(const std::vector<std::string> types, config.strings("layer_types"));
  bool slides = false;
  for (const std::string& type : types) {
    if (type != "full_attention" && type != "sliding_attention")
      return fail(ErrorCode::unsupported,
                  "{}: \"layer_types\" has \"{}\"; supported are full_attention and sliding_attention", config.where(),
                  type);
    slides = slides || type == "sliding_attention";
  }
  return slides;
}

}  // namespace

Result<Reading> read_llama(JsonReader& config) {
  NIBBLE_TRY(Spec spec, read_spec(config, 2048));
  NIBBLE_TRY(const bool attention_bias, config.boolean("attention_bias", false));
  NIBBLE_TRY(const bool mlp_bias, config.boolean("mlp_bias", false));
  if (attention_bias) set_bias(spec, {Role::q, Role::k, Role::v, Role::o});
  if (mlp_bias) set_bias(spec, {Role::gate, Role::up, Role::down});
  return Reading{spec, layout_of(spec)};
}

Result<Reading> read_mistral(JsonReader& config) {
  NIBBLE_TRY(Spec spec, read_spec(config, 131072));
  // null means none, but a config without the key means the library's default.
  if (!config.is_null("sliding_window")) NIBBLE_DO(cap_positions(config, spec, 4096));
  return Reading{spec, layout_of(spec)};
}

Result<Reading> read_qwen2(JsonReader& config) {
  NIBBLE_TRY(Spec spec, read_spec(config, 32768));
  set_bias(spec, {Role::q, Role::k, Role::v});
  NIBBLE_TRY(const bool sliding, config.boolean("use_sliding_window", false));
  NIBBLE_TRY(const int64_t full_layers, config.integer("max_window_layers", 0, kMaxLayers, 28));
  NIBBLE_TRY(const bool slides, some_layer_slides(config, full_layers < spec.layers));
  if (sliding && slides && !config.is_null("sliding_window")) NIBBLE_DO(cap_positions(config, spec, 4096));
  return Reading{spec, layout_of(spec)};
}

}  // namespace nibble
