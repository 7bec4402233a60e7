#include "model/families/keys.h"

#include <cmath>

namespace nibble {
namespace {

struct ActivationName {
  std::string_view name;
  Activation activation;
};
constexpr ActivationName kActivations[] = {
    {"silu", Activation::silu},           {"swish", Activation::silu},
    {"gelu", Activation::gelu},           {"gelu_python", Activation::gelu},
    {"gelu_new", Activation::gelu_tanh},  {"gelu_pytorch_tanh", Activation::gelu_tanh},
    {"gelu_fast", Activation::gelu_tanh}, {"gelu_python_tanh", Activation::gelu_tanh},
    {"relu", Activation::relu},
};

// Keys with which other architectures (or edited copies of these) compute something else. `neutral` leaves the
// function alone; so do null and false.
struct OtherMaths {
  std::string_view key;
  std::optional<double> neutral;
};
constexpr OtherMaths kOtherMaths[] = {
    {"partial_rotary_factor", 1},
    {"rope_interleaved", {}},
    {"attn_logit_softcapping", {}},
    {"final_logit_softcapping", {}},
    {"logit_scale", 1},
    {"logits_scaling", 1},
    {"embedding_multiplier", 1},
    {"attention_multiplier", {}},
    {"residual_multiplier", 1},
    {"scale_emb", 1},
    {"scale_depth", {}},
    {"qk_layernorm", {}},
    {"use_qk_norm", {}},
    {"qk_norm", {}},
    {"clip_qkv", {}},
    {"num_local_experts", 0},
    {"num_experts", 0},
    {"n_routed_experts", 0},
    {"attention_chunk_size", {}},
    {"no_rope_layers", {}},
    {"is_encoder_decoder", {}},
    {"add_cross_attention", {}},
    {"compression_config", {}},
    {"apply_residual_connection_post_layernorm", {}},
};

bool changes_nothing(const Json& value, const OtherMaths& row) {
  if (value.is_boolean()) return !value.get<bool>();
  return row.neutral && value.is_number() && value.get<double>() == *row.neutral;
}

std::string joined_activations() {
  std::string names;
  for (const ActivationName& row : kActivations) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

Status read_llama3(JsonReader& scaling, int64_t max_positions, Rope& rope) {
  NIBBLE_TRY(rope.low_frequency_factor, scaling.number("low_freq_factor", 1e-6, 1e6));
  NIBBLE_TRY(rope.high_frequency_factor, scaling.number("high_freq_factor", 1e-6, 1e6));
  NIBBLE_TRY(rope.original_positions,
             scaling.integer("original_max_position_embeddings", 1, kMaxPositions, max_positions));
  if (rope.high_frequency_factor <= rope.low_frequency_factor)
    return fail(ErrorCode::corrupt, "{}: \"high_freq_factor\" is {}, expected more than \"low_freq_factor\", {}",
                scaling.where(), rope.high_frequency_factor, rope.low_frequency_factor);
  return {};
}

// The object under "rope_scaling" or "rope_parameters".
Result<Rope> read_scaling(JsonReader scaling, double theta, int64_t max_positions) {
  Rope rope;
  NIBBLE_TRY(rope.theta, scaling.number("rope_theta", 1, 1e15, theta));
  NIBBLE_TRY(const std::string older, scaling.string("type", scaling.has("factor") ? "" : "default"));
  NIBBLE_TRY(const std::string type, scaling.string("rope_type", older));
  if (type.empty()) return fail(ErrorCode::corrupt, "{}: \"rope_type\" is missing", scaling.where());
  if (type == "linear") rope.scaling = RopeScaling::linear;
  if (type == "llama3") rope.scaling = RopeScaling::llama3;
  if (rope.scaling == RopeScaling::none && type != "default")
    return fail(ErrorCode::unsupported,
                "{}: rope scaling \"{}\" is not supported; supported are default, linear, llama3", scaling.where(),
                type);
  if (rope.scaling != RopeScaling::none) {
    NIBBLE_TRY(rope.factor, scaling.number("factor", 1e-6, 1e9));
  }
  if (rope.scaling == RopeScaling::llama3) NIBBLE_DO(read_llama3(scaling, max_positions, rope));
  NIBBLE_DO(refuse_other_maths(scaling));
  // Harmless beside the kinds that do not use them.
  scaling.ignore({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"});
  NIBBLE_DO(scaling.refuse_unknown());
  return rope;
}

Result<std::optional<Rope>> read_rope_under(JsonReader& config, std::string_view key, double theta,
                                            int64_t max_positions) {
  const Json* value = config.find(key);
  if (value == nullptr || (value->is_object() && value->empty())) return std::nullopt;
  NIBBLE_TRY(JsonReader scaling, config.object(key));
  NIBBLE_TRY(Rope rope, read_scaling(std::move(scaling), theta, max_positions));
  return rope;
}

}  // namespace

Result<int64_t> read_dimension(JsonReader& config, std::initializer_list<std::string_view> keys, int64_t most,
                               std::optional<int64_t> fallback) {
  for (std::string_view key : keys)
    if (config.has(key)) return config.integer(key, 1, most);
  return config.integer(*keys.begin(), 1, most, fallback);
}

Result<Activation> read_activation(JsonReader& config, std::string_view key, std::string_view fallback) {
  NIBBLE_TRY(const std::string name, config.string(key, std::string(fallback)));
  for (const ActivationName& row : kActivations)
    if (row.name == name) return row.activation;
  return fail(ErrorCode::unsupported, "{}: \"{}\" is \"{}\", supported are {}", config.where(), key, name,
              joined_activations());
}

Result<Rope> read_rope(JsonReader& config, int64_t max_positions) {
  Rope plain;
  NIBBLE_TRY(plain.theta, config.number("rope_theta", 1, 1e15, 10000));
  NIBBLE_TRY(const auto older, read_rope_under(config, "rope_scaling", plain.theta, max_positions));
  NIBBLE_TRY(const auto newer, read_rope_under(config, "rope_parameters", plain.theta, max_positions));
  if (older && newer && *older != *newer)
    return fail(ErrorCode::corrupt, "{}: \"rope_scaling\" and \"rope_parameters\" disagree; remove one of them",
                config.where());
  return newer ? *newer : older.value_or(plain);
}

Result<int64_t> read_head_dim(JsonReader& config, int64_t hidden, int64_t heads) {
  if (config.has("head_dim")) return config.integer("head_dim", 1, kMaxHeadDim);
  if (hidden % heads != 0)
    return fail(ErrorCode::corrupt, "{}: {} attention heads do not divide the hidden size {}", config.where(), heads,
                hidden);
  return hidden / heads;
}

Status refuse_other_maths(JsonReader& config) {
  for (const OtherMaths& row : kOtherMaths) {
    const Json* value = config.find(row.key);
    if (value == nullptr || changes_nothing(*value, row)) continue;
    return fail(ErrorCode::unsupported, "{}: \"{}\" is {}, which is not supported", config.where(), row.key,
                dump_json(*value).substr(0, 60));
  }
  return {};
}

void set_bias(Spec& spec, std::initializer_list<Role> roles) {
  for (Role role : roles) spec.bias[static_cast<size_t>(role)] = true;
}

Slice whole(const Spec& spec, Role role, std::string_view stem) {
  return {stem, RowRuns::whole(shape_of(spec, role).rows)};
}

}  // namespace nibble
