// Spec <-> JSON, as it stands in quantization_config.
#include <iterator>

#include "checkpoint/file_name.h"
#include "model/families.h"
#include "model/spec.h"

namespace nibble {
namespace {

template <class E>
struct Named {
  std::string_view name;
  E value;
};
constexpr Named<Norm> kNorms[] = {{"rms", Norm::rms}, {"layer", Norm::layer}};
constexpr Named<Activation> kActivations[] = {{"silu", Activation::silu},
                                              {"gelu", Activation::gelu},
                                              {"gelu_tanh", Activation::gelu_tanh},
                                              {"relu", Activation::relu}};
constexpr Named<Positions> kPositions[] = {{"rotary", Positions::rotary},
                                           {"learned", Positions::learned},
                                           {"alibi", Positions::alibi},
                                           {"none", Positions::none}};
constexpr Named<RopeScaling> kScalings[] = {
    {"none", RopeScaling::none}, {"linear", RopeScaling::linear}, {"llama3", RopeScaling::llama3}};

template <class E, size_t N>
std::string name_in(const Named<E> (&table)[N], E value) {
  for (const Named<E>& row : table)
    if (row.value == value) return std::string(row.name);
  return {};
}

template <class E, size_t N>
Status read_name(JsonReader& reader, std::string_view key, const Named<E> (&table)[N], E& out) {
  NIBBLE_TRY(const std::string name, reader.string(key));
  std::string names;
  for (const Named<E>& row : table) {
    if (row.name == name) return out = row.value, Status();
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  return fail(ErrorCode::unsupported, "{}: \"{}\" is \"{}\", supported are {}", reader.where(), key, name, names);
}

Status read_dimension(JsonReader& reader, std::string_view key, int64_t most, int64_t& out, int64_t least = 1) {
  NIBBLE_TRY(out, reader.integer(key, least, most));
  return {};
}

Status read_flag(JsonReader& reader, std::string_view key, bool& out) {
  NIBBLE_TRY(out, reader.boolean(key));
  return {};
}

Status read_number(JsonReader& reader, std::string_view key, double& out) {
  NIBBLE_TRY(out, reader.number(key, 0, 1e15));
  return {};
}

Status read_dimensions(JsonReader& reader, Spec& spec) {
  NIBBLE_DO(read_dimension(reader, "vocabulary", kMaxVocabulary, spec.vocabulary));
  NIBBLE_DO(read_dimension(reader, "hidden", kMaxHidden, spec.hidden));
  NIBBLE_DO(read_dimension(reader, "embedding", kMaxHidden, spec.embedding));
  NIBBLE_DO(read_dimension(reader, "layers", kMaxLayers, spec.layers));
  NIBBLE_DO(read_dimension(reader, "heads", kMaxHeads, spec.heads));
  NIBBLE_DO(read_dimension(reader, "kv_heads", kMaxHeads, spec.kv_heads));
  NIBBLE_DO(read_dimension(reader, "head_dim", kMaxHeadDim, spec.head_dim));
  NIBBLE_DO(read_dimension(reader, "ffn", kMaxFfn, spec.ffn));
  NIBBLE_DO(read_dimension(reader, "max_positions", kMaxPositions, spec.max_positions));
  return read_dimension(reader, "position_offset", kMaxPositions, spec.position_offset, 0);
}

Status read_flags(JsonReader& reader, Spec& spec) {
  NIBBLE_DO(read_flag(reader, "final_norm", spec.final_norm));
  NIBBLE_DO(read_flag(reader, "post_norm", spec.post_norm));
  NIBBLE_DO(read_flag(reader, "parallel", spec.parallel));
  NIBBLE_DO(read_flag(reader, "shared_norm", spec.shared_norm));
  NIBBLE_DO(read_flag(reader, "norm_affine", spec.norm_affine));
  NIBBLE_DO(read_flag(reader, "gated", spec.gated));
  return read_flag(reader, "tied_head", spec.tied_head);
}

Status read_rope(JsonReader& parent, Rope& rope) {
  NIBBLE_TRY(JsonReader reader, parent.object("rope"));
  NIBBLE_DO(read_number(reader, "theta", rope.theta));
  NIBBLE_DO(read_name(reader, "scaling", kScalings, rope.scaling));
  NIBBLE_DO(read_number(reader, "factor", rope.factor));
  NIBBLE_DO(read_number(reader, "low_frequency_factor", rope.low_frequency_factor));
  NIBBLE_DO(read_number(reader, "high_frequency_factor", rope.high_frequency_factor));
  NIBBLE_DO(read_dimension(reader, "original_positions", kMaxPositions, rope.original_positions));
  return reader.refuse_unknown();
}

Status read_biases(JsonReader& reader, Spec& spec) {
  NIBBLE_TRY(const std::vector<std::string> names, reader.strings("bias"));
  for (const std::string& name : names) {
    auto role = role_named(name);
    if (!role) return fail(ErrorCode::corrupt, "{}: \"bias\": {}", reader.where(), role.error().message);
    spec.bias[static_cast<size_t>(*role)] = true;
  }
  return {};
}

Json rope_to_json(const Rope& rope) {
  return {{"theta", rope.theta},
          {"scaling", name_in(kScalings, rope.scaling)},
          {"factor", rope.factor},
          {"low_frequency_factor", rope.low_frequency_factor},
          {"high_frequency_factor", rope.high_frequency_factor},
          {"original_positions", rope.original_positions}};
}

// A name that is not a row of families() could not be written back, and goes into messages and reports.
Status check_family(const std::string& name, std::string_view where) {
  std::string names;
  for (const Family& family : families()) {
    if (family.name == name) return {};
    names += (names.empty() ? "" : ", ") + std::string(family.name);
  }
  return fail(ErrorCode::unsupported, "{}: \"family\" is {}, supported are {}", where, in_quotes(name), names);
}

}  // namespace

Json to_json(const Spec& spec) {
  Json biases = Json::array();
  for (Role role : kAllRoles)
    if (spec.bias[static_cast<size_t>(role)]) biases.push_back(name_of(role));
  return {{"family", spec.family},
          {"vocabulary", spec.vocabulary},
          {"hidden", spec.hidden},
          {"embedding", spec.embedding},
          {"layers", spec.layers},
          {"heads", spec.heads},
          {"kv_heads", spec.kv_heads},
          {"head_dim", spec.head_dim},
          {"ffn", spec.ffn},
          {"max_positions", spec.max_positions},
          {"norm", name_in(kNorms, spec.norm)},
          {"norm_eps", spec.norm_eps},
          {"final_norm", spec.final_norm},
          {"post_norm", spec.post_norm},
          {"parallel", spec.parallel},
          {"shared_norm", spec.shared_norm},
          {"norm_affine", spec.norm_affine},
          {"gated", spec.gated},
          {"activation", name_in(kActivations, spec.activation)},
          {"positions", name_in(kPositions, spec.positions)},
          {"position_offset", spec.position_offset},
          {"rope", rope_to_json(spec.rope)},
          {"alibi_scale", spec.alibi_scale},
          {"tied_head", spec.tied_head},
          {"bias", std::move(biases)}};
}

Result<Spec> spec_from_json(const Json& value, std::string where) {
  NIBBLE_TRY(JsonReader reader, JsonReader::open(value, std::move(where)));
  Spec spec;
  NIBBLE_TRY(spec.family, reader.string("family"));
  NIBBLE_DO(check_family(spec.family, reader.where()));
  NIBBLE_DO(read_dimensions(reader, spec));
  NIBBLE_DO(read_flags(reader, spec));
  NIBBLE_DO(read_name(reader, "norm", kNorms, spec.norm));
  NIBBLE_DO(read_number(reader, "norm_eps", spec.norm_eps));
  NIBBLE_DO(read_name(reader, "activation", kActivations, spec.activation));
  NIBBLE_DO(read_name(reader, "positions", kPositions, spec.positions));
  NIBBLE_DO(read_rope(reader, spec.rope));
  NIBBLE_DO(read_number(reader, "alibi_scale", spec.alibi_scale));
  NIBBLE_DO(read_biases(reader, spec));
  NIBBLE_DO(reader.refuse_unknown());
  NIBBLE_DO(validate(spec, reader.where()));
  return spec;
}

}  // namespace nibble
