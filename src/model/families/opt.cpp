// OPT: learned positions that start at row 2, LayerNorm before each half of the block. The 350m model has its norms
// after the residual additions and an embedding narrower than the hidden state, projected in and out.
#include "model/families/keys.h"
#include "model/families/rows.h"

namespace nibble {
namespace {

Status read_norms(JsonReader& config, Spec& spec) {
  NIBBLE_TRY(const bool norm_first, config.boolean("do_layer_norm_before", true));
  NIBBLE_TRY(const bool no_final_norm, config.boolean("_remove_final_layer_norm", false));
  NIBBLE_TRY(spec.norm_affine, config.boolean("layer_norm_elementwise_affine", true));
  spec.norm = Norm::layer;
  spec.norm_eps = 1e-5;
  spec.post_norm = !norm_first;
  spec.final_norm = norm_first && !no_final_norm;
  return {};
}

Layout layout_of(const Spec& spec) {
  Layout layout;
  layout.bases = {"model.decoder.", "decoder.", ""};
  layout.blocks = "layers.";
  layout.linears = {whole(spec, Role::q, "self_attn.q_proj"),
                    whole(spec, Role::k, "self_attn.k_proj"),
                    whole(spec, Role::v, "self_attn.v_proj"),
                    whole(spec, Role::o, "self_attn.out_proj"),
                    Slice{},
                    whole(spec, Role::up, "fc1"),
                    whole(spec, Role::down, "fc2")};
  layout.attention_norm = "self_attn_layer_norm";
  layout.mlp_norm = "final_layer_norm";
  layout.embedding = "embed_tokens";
  layout.positions = "embed_positions";
  layout.project_in = "project_in";
  layout.project_out = "project_out";
  layout.final_norm = "final_layer_norm";
  return layout;
}

}  // namespace

Result<Reading> read_opt(JsonReader& config) {
  Spec spec;
  NIBBLE_TRY(spec.vocabulary, read_dimension(config, {"vocab_size"}, kMaxVocabulary));
  NIBBLE_TRY(spec.hidden, read_dimension(config, {"hidden_size"}, kMaxHidden));
  NIBBLE_TRY(spec.embedding, read_dimension(config, {"word_embed_proj_dim"}, kMaxHidden, spec.hidden));
  NIBBLE_TRY(spec.layers, read_dimension(config, {"num_hidden_layers"}, kMaxLayers));
  NIBBLE_TRY(spec.heads, read_dimension(config, {"num_attention_heads"}, kMaxHeads));
  NIBBLE_TRY(spec.head_dim, read_head_dim(config, spec.hidden, spec.heads));
  NIBBLE_TRY(spec.ffn, read_dimension(config, {"ffn_dim"}, kMaxFfn));
  NIBBLE_TRY(spec.max_positions, read_dimension(config, {"max_position_embeddings"}, kMaxPositions, 2048));
  NIBBLE_TRY(spec.activation, read_activation(config, "activation_function", "relu"));
  NIBBLE_TRY(spec.tied_head, config.boolean("tie_word_embeddings", true));
  NIBBLE_TRY(const bool bias, config.boolean("enable_bias", true));
  if (bias) set_bias(spec, {Role::q, Role::k, Role::v, Role::o, Role::up, Role::down});
  NIBBLE_DO(read_norms(config, spec));
  NIBBLE_DO(refuse_other_maths(config));
  spec.kv_heads = spec.heads;
  spec.positions = Positions::learned;
  spec.position_offset = 2;
  return Reading{spec, layout_of(spec)};
}

}  // namespace nibble
