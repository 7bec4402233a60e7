// Falcon in its three shapes. H query heads of d rows each; query_key_value is one tensor with the rows
//
//   7b   multi_query               [Q1 .. QH | K | V]                one key-value head, one norm, parallel block
//   40b  new_decoder_architecture  [Q.. K V] per key-value head      two norms (11b: one), parallel block
//   rw   neither                   [Q K V] per head                  ALiBi, biases, sequential block with two norms
//
// The oldest files call themselves RefinedWebModel (7b, rw) and RefinedWeb (40b) and spell some keys otherwise.
#include <cmath>

#include "model/families/keys.h"
#include "model/families/rows.h"

namespace nibble {
namespace {

enum class Fusing { queries_then_one, per_kv_head, per_head };

struct Shape3 {
  Fusing fusing = Fusing::per_head;
  int norms = 1;  // of a block: 1 shared, 2 beside each other or in sequence
};

Result<std::string> model_type(JsonReader& config) { return config.string("model_type", "falcon"); }

Status read_dimensions(JsonReader& config, Spec& spec) {
  NIBBLE_TRY(spec.vocabulary, read_dimension(config, {"vocab_size"}, kMaxVocabulary));
  NIBBLE_TRY(spec.hidden, read_dimension(config, {"hidden_size", "n_embed"}, kMaxHidden));
  NIBBLE_TRY(spec.layers, read_dimension(config, {"num_hidden_layers", "n_layer"}, kMaxLayers));
  NIBBLE_TRY(spec.heads, read_dimension(config, {"num_attention_heads", "n_head"}, kMaxHeads));
  NIBBLE_TRY(spec.ffn, read_dimension(config, {"ffn_hidden_size"}, kMaxFfn, 4 * spec.hidden));
  NIBBLE_TRY(spec.max_positions, read_dimension(config, {"max_position_embeddings"}, kMaxPositions, 2048));
  if (spec.hidden % spec.heads != 0)
    return fail(ErrorCode::corrupt, "{}: {} attention heads do not divide the hidden size {}", config.where(),
                spec.heads, spec.hidden);
  spec.head_dim = spec.hidden / spec.heads;
  spec.embedding = spec.hidden;
  return {};
}

Status read_positions(JsonReader& config, Spec& spec) {
  NIBBLE_TRY(const bool alibi, config.boolean("alibi", false));
  spec.positions = alibi ? Positions::alibi : Positions::rotary;
  if (!alibi) {
    NIBBLE_TRY(spec.rope, read_rope(config, spec.max_positions));
    return {};
  }
  spec.alibi_scale = 1 / std::sqrt(static_cast<double>(spec.head_dim));
  return {};
}

// How many key-value heads there are. The key is ignored by multi-query models, which write any number there.
Status read_kv_heads(JsonReader& config, Fusing fusing, Spec& spec) {
  NIBBLE_TRY(const int64_t kv_heads, read_dimension(config, {"num_kv_heads", "n_head_kv"}, kMaxHeads, spec.heads));
  spec.kv_heads = fusing == Fusing::queries_then_one ? 1 : kv_heads;
  if (fusing == Fusing::per_head && kv_heads != spec.heads)
    return fail(ErrorCode::unsupported,
                "{}: {} key-value heads for {} heads need \"new_decoder_architecture\" or \"multi_query\"",
                config.where(), kv_heads, spec.heads);
  return {};
}

// The new decoder is always parallel and never multi-query, whatever the keys say.
Result<Shape3> read_shape(JsonReader& config, Spec& spec) {
  NIBBLE_TRY(const std::string type, model_type(config));
  const bool oldest = type != "falcon";
  NIBBLE_TRY(const bool new_decoder, config.boolean("new_decoder_architecture", type == "RefinedWeb"));
  NIBBLE_TRY(const bool multi_query, config.boolean("multi_query", !oldest));
  NIBBLE_TRY(const bool parallel, config.boolean("parallel_attn", !oldest));
  NIBBLE_TRY(const int64_t norms, config.integer("num_ln_in_parallel_attn", 1, 2, new_decoder ? 2 : 1));
  if (!new_decoder && parallel && norms == 2)
    return fail(ErrorCode::unsupported,
                "{}: \"num_ln_in_parallel_attn\" is 2 without \"new_decoder_architecture\", which is not supported",
                config.where());
  spec.parallel = new_decoder || parallel;
  spec.shared_norm = spec.parallel && norms == 1;
  Shape3 shape;
  shape.norms = spec.shared_norm ? 1 : 2;
  if (new_decoder) {
    shape.fusing = Fusing::per_kv_head;
  } else if (multi_query) {
    shape.fusing = Fusing::queries_then_one;
  }
  return shape;
}

struct FusedRows {
  RowRuns q, k, v;
};

// Every layout is `blocks` repetitions of [queries query heads | one key head | one value head].
FusedRows fused_rows(const Spec& spec, Fusing fusing) {
  const int64_t blocks = fusing == Fusing::queries_then_one ? 1 : spec.kv_heads;
  const int64_t d = spec.head_dim, queries = spec.heads / blocks;
  const int64_t stride = (queries + 2) * d, total = blocks * stride;
  return {{0, queries * d, stride, blocks, total},
          {queries * d, d, stride, blocks, total},
          {(queries + 1) * d, d, stride, blocks, total}};
}

Layout layout_of(const Spec& spec, const Shape3& shape) {
  constexpr std::string_view kFused = "self_attention.query_key_value";
  const FusedRows rows = fused_rows(spec, shape.fusing);
  Layout layout;
  layout.bases = {"transformer.", ""};
  layout.blocks = "h.";
  layout.linears = {Slice{kFused, rows.q},
                    Slice{kFused, rows.k},
                    Slice{kFused, rows.v},
                    whole(spec, Role::o, "self_attention.dense"),
                    Slice{},
                    whole(spec, Role::up, "mlp.dense_h_to_4h"),
                    whole(spec, Role::down, "mlp.dense_4h_to_h")};
  const bool beside = spec.parallel && shape.norms == 2;
  layout.attention_norm = beside ? "ln_attn" : "input_layernorm";
  layout.mlp_norm = beside ? "ln_mlp" : spec.parallel ? "" : "post_attention_layernorm";
  layout.embedding = "word_embeddings";
  layout.final_norm = "ln_f";
  return layout;
}

}  // namespace

Result<Reading> read_falcon(JsonReader& config) {
  Spec spec;
  NIBBLE_DO(read_dimensions(config, spec));
  NIBBLE_DO(read_positions(config, spec));
  NIBBLE_TRY(const Shape3 shape, read_shape(config, spec));
  NIBBLE_DO(read_kv_heads(config, shape.fusing, spec));
  NIBBLE_TRY(spec.norm_eps, config.number("layer_norm_epsilon", 1e-20, 1, 1e-5));
  NIBBLE_TRY(spec.activation, read_activation(config, "activation", "gelu"));
  NIBBLE_TRY(spec.tied_head, config.boolean("tie_word_embeddings", true));
  NIBBLE_TRY(const bool bias, config.boolean("bias", false));
  if (bias) set_bias(spec, {Role::q, Role::k, Role::v, Role::o, Role::up, Role::down});
  NIBBLE_DO(refuse_other_maths(config));
  spec.norm = Norm::layer;
  // Before the rows of the fused tensor are counted, heads must divide.
  NIBBLE_DO(validate(spec, config.where()));
  return Reading{spec, layout_of(spec, shape)};
}

}  // namespace nibble
