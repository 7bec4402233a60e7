// Which knobs a config sets. Expectations are those of the transformers library for the same keys.
#include "model/families.h"

#include <gtest/gtest.h>

#include <set>

#include "core/testing.h"
#include "model/testing.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::expect_ok;
using testing::falcon_sample;
using testing::FalconStyle;

Spec spec_of(const Json& config) {
  auto reading = read_family(config, "config.json");
  expect_ok(reading);
  return reading ? reading->spec : Spec();
}

Json mistral() {
  Json config = testing::llama_sample().config;
  config["architectures"] = {"MistralForCausalLM"};
  config["model_type"] = "mistral";
  return config;
}

Json qwen2() {
  Json config = testing::llama_sample().config;
  config["architectures"] = {"Qwen2ForCausalLM"};
  config["model_type"] = "qwen2";
  return config;
}

bool has_bias(const Spec& spec, Role role) { return spec.bias[static_cast<size_t>(role)]; }

TEST(Families, ListIsConsistent) {
  std::set<std::string_view> seen;
  for (const Family& family : families()) {
    EXPECT_TRUE(seen.insert(family.name).second);
    for (std::string_view type : family.model_types) EXPECT_TRUE(type == family.name || seen.insert(type).second);
    for (std::string_view name : family.architectures) EXPECT_TRUE(seen.insert(name).second);
  }
}

TEST(Llama, Defaults) {
  const Spec spec = spec_of(testing::llama_sample().config);
  EXPECT_EQ(spec.family, "llama");
  EXPECT_EQ(spec.head_dim, 6);
  EXPECT_EQ(spec.kv_heads, 2);
  EXPECT_EQ(spec.norm, Norm::rms);
  EXPECT_EQ(spec.activation, Activation::silu);
  EXPECT_TRUE(spec.gated);
  EXPECT_FALSE(spec.tied_head);
  EXPECT_EQ(spec.rope, Rope());
  EXPECT_EQ(spec.embedding, spec.hidden);
  for (Role role : kAllRoles) EXPECT_FALSE(has_bias(spec, role));
}

TEST(Llama, Knobs) {
  Json config = testing::llama_sample().config;
  config.erase("rms_norm_eps");
  config.erase("max_position_embeddings");
  config["num_key_value_heads"] = nullptr;
  config["head_dim"] = 10;
  config["attention_bias"] = true;
  config["tie_word_embeddings"] = true;
  config["hidden_act"] = "gelu_pytorch_tanh";
  Spec spec = spec_of(config);
  EXPECT_EQ(spec.norm_eps, 1e-6);
  EXPECT_EQ(spec.max_positions, 2048);
  EXPECT_EQ(spec.kv_heads, 4);
  EXPECT_EQ(spec.head_dim, 10);
  EXPECT_EQ(spec.activation, Activation::gelu_tanh);
  EXPECT_TRUE(spec.tied_head);
  EXPECT_TRUE(has_bias(spec, Role::q) && has_bias(spec, Role::o));
  EXPECT_FALSE(has_bias(spec, Role::up));
  config["mlp_bias"] = true;
  spec = spec_of(config);
  EXPECT_TRUE(has_bias(spec, Role::gate) && has_bias(spec, Role::up) && has_bias(spec, Role::down));
}

TEST(Llama, FoundByArchitectureAlone) {
  Json config = testing::llama_sample().config;
  config.erase("model_type");
  EXPECT_EQ(spec_of(config).family, "llama");
}

TEST(Llama, IgnoresKeysWithoutMathematics) {
  Json config = testing::llama_sample().config;
  config["auto_map"] = {{"AutoModel", "modeling.X"}};
  config["pretraining_tp"] = 2;
  config["rope_scaling"] = nullptr;
  config["partial_rotary_factor"] = 1.0;
  config["is_encoder_decoder"] = false;
  config["sliding_window"] = 8;
  config["anything_else"] = {1, 2, 3};
  EXPECT_EQ(spec_of(config).max_positions, 64);
}

TEST(Rope, OldAndNewSpelling) {
  const Json llama3 = {
      {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 16}};
  const Rope expected = {500000, RopeScaling::llama3, 8, 1, 4, 16};
  Json old = testing::llama_sample().config;
  old["rope_theta"] = 500000;
  old["rope_scaling"] = llama3;
  old["rope_scaling"]["rope_type"] = "llama3";
  EXPECT_EQ(spec_of(old).rope, expected);
  Json newer = testing::llama_sample().config;
  newer["rope_parameters"] = llama3;
  newer["rope_parameters"]["rope_type"] = "llama3";
  newer["rope_parameters"]["rope_theta"] = 500000.0;
  EXPECT_EQ(spec_of(newer).rope, expected);
  newer["rope_scaling"] = old["rope_scaling"];
  newer["rope_theta"] = 500000.0;
  EXPECT_EQ(spec_of(newer).rope, expected) << "both spellings, the same content";
}

TEST(Rope, LinearUnderEitherName) {
  for (const char* key : {"type", "rope_type"}) {
    Json config = testing::llama_sample().config;
    config["rope_scaling"] = {{key, "linear"}, {"factor", 4}};
    const Rope rope = spec_of(config).rope;
    EXPECT_EQ(rope.scaling, RopeScaling::linear);
    EXPECT_EQ(rope.factor, 4);
    EXPECT_EQ(rope.theta, 10000);
  }
}

TEST(Rope, DefaultTypeChangesOnlyTheta) {
  Json config = testing::llama_sample().config;
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 25000.5}, {"factor", 3}};
  Rope expected;
  expected.theta = 25000.5;
  EXPECT_EQ(spec_of(config).rope, expected);
}

TEST(Mistral, PositionsEndAtTheWindow) {
  Json config = mistral();
  config["sliding_window"] = nullptr;
  EXPECT_EQ(spec_of(config).max_positions, 64);
  config["sliding_window"] = 16;
  EXPECT_EQ(spec_of(config).max_positions, 16);
  config["sliding_window"] = 4096;
  EXPECT_EQ(spec_of(config).max_positions, 64);
  config.erase("sliding_window");
  config["max_position_embeddings"] = 32768;
  EXPECT_EQ(spec_of(config).max_positions, 4096) << "the library's default window";
}

TEST(Qwen2, BiasesAndWindow) {
  Json config = qwen2();
  Spec spec = spec_of(config);
  EXPECT_TRUE(has_bias(spec, Role::q) && has_bias(spec, Role::k) && has_bias(spec, Role::v));
  EXPECT_FALSE(has_bias(spec, Role::o));
  config["sliding_window"] = 16;
  EXPECT_EQ(spec_of(config).max_positions, 64) << "not used";
  config["use_sliding_window"] = true;
  config["max_window_layers"] = 2;
  EXPECT_EQ(spec_of(config).max_positions, 64) << "no layer has it";
  config["max_window_layers"] = 1;
  EXPECT_EQ(spec_of(config).max_positions, 16);
  config["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_EQ(spec_of(config).max_positions, 64);
  config["layer_types"] = {"full_attention", "sliding_attention"};
  EXPECT_EQ(spec_of(config).max_positions, 16);
}

TEST(Opt, Knobs) {
  Spec spec = spec_of(testing::opt_sample().config);
  EXPECT_EQ(spec.norm, Norm::layer);
  EXPECT_EQ(spec.norm_eps, 1e-5);
  EXPECT_TRUE(spec.final_norm && spec.tied_head && !spec.gated && !spec.post_norm);
  EXPECT_EQ(spec.positions, Positions::learned);
  EXPECT_EQ(spec.position_offset, 2);
  EXPECT_EQ(spec.activation, Activation::relu);
  EXPECT_TRUE(has_bias(spec, Role::q) && has_bias(spec, Role::down));
  EXPECT_FALSE(has_bias(spec, Role::gate));
  spec = spec_of(testing::opt_sample(true).config);
  EXPECT_TRUE(spec.post_norm);
  EXPECT_FALSE(spec.final_norm);
  EXPECT_EQ(spec.embedding, 8);
  Json config = testing::opt_sample().config;
  config["_remove_final_layer_norm"] = true;
  config["enable_bias"] = false;
  config["layer_norm_elementwise_affine"] = false;
  config["activation_function"] = "gelu";
  config["tie_word_embeddings"] = false;
  config.erase("word_embed_proj_dim");
  spec = spec_of(config);
  EXPECT_FALSE(spec.final_norm || spec.norm_affine || spec.tied_head || has_bias(spec, Role::q));
  EXPECT_EQ(spec.activation, Activation::gelu);
  EXPECT_EQ(spec.embedding, 16);
}

TEST(Falcon, ThreeShapes) {
  Spec spec = spec_of(falcon_sample(FalconStyle::b7).config);
  EXPECT_TRUE(spec.parallel && spec.shared_norm && spec.tied_head);
  EXPECT_EQ(spec.kv_heads, 1);
  EXPECT_EQ(spec.positions, Positions::rotary);
  EXPECT_EQ(spec.activation, Activation::gelu);
  spec = spec_of(falcon_sample(FalconStyle::b40).config);
  EXPECT_TRUE(spec.parallel && !spec.shared_norm);
  EXPECT_EQ(spec.kv_heads, 2);
  spec = spec_of(falcon_sample(FalconStyle::b11).config);
  EXPECT_TRUE(spec.parallel && spec.shared_norm);
  EXPECT_EQ(spec.kv_heads, 2);
  spec = spec_of(falcon_sample(FalconStyle::rw).config);
  EXPECT_FALSE(spec.parallel || spec.shared_norm);
  EXPECT_EQ(spec.kv_heads, 4);
  EXPECT_EQ(spec.positions, Positions::alibi);
  EXPECT_EQ(spec.alibi_scale, 1 / std::sqrt(6.0));
  EXPECT_TRUE(has_bias(spec, Role::o));
}

TEST(Falcon, NewDecoderIgnoresOlderKeys) {
  Json config = falcon_sample(FalconStyle::b40).config;
  config["multi_query"] = false;
  config["parallel_attn"] = false;
  const Spec spec = spec_of(config);
  EXPECT_TRUE(spec.parallel);
  EXPECT_EQ(spec.kv_heads, 2);
}

TEST(Falcon, MultiQueryIgnoresKvHeads) {
  Json config = falcon_sample(FalconStyle::b7).config;
  config["num_kv_heads"] = 4;
  EXPECT_EQ(spec_of(config).kv_heads, 1);
}

TEST(Falcon, OldestNames) {
  const Json old7 = {{"model_type", "RefinedWebModel"},
                     {"architectures", {"RWForCausalLM"}},
                     {"hidden_size", 24},
                     {"n_head", 4},
                     {"n_layer", 3},
                     {"multi_query", true},
                     {"parallel_attn", true},
                     {"vocab_size", 9}};
  Spec spec = spec_of(old7);
  EXPECT_EQ(spec.layers, 3);
  EXPECT_EQ(spec.kv_heads, 1);
  EXPECT_EQ(spec.ffn, 96);
  EXPECT_EQ(spec.max_positions, 2048);
  EXPECT_TRUE(spec.shared_norm);
  const Json old40 = {{"model_type", "RefinedWeb"},
                      {"architectures", {"RWForCausalLM"}},
                      {"n_embed", 24},
                      {"n_head", 4},
                      {"n_layer", 3},
                      {"n_head_kv", 2},
                      {"parallel_attn", true},
                      {"vocab_size", 9}};
  spec = spec_of(old40);
  EXPECT_EQ(spec.hidden, 24);
  EXPECT_EQ(spec.kv_heads, 2);
  EXPECT_TRUE(spec.parallel && !spec.shared_norm);
}

TEST(RowRuns, CountsAndPlaces) {
  const RowRuns runs = {4, 2, 6, 3, 18};
  EXPECT_EQ(runs.rows(), 6);
  std::vector<int64_t> rows;
  for (int64_t n = 0; n < runs.rows(); ++n) rows.push_back(runs.at(n));
  EXPECT_EQ(rows, (std::vector<int64_t>{4, 5, 10, 11, 16, 17}));
}

// --- Configs that must be refused -----------------------------------------------------------------------------

struct BadConfig {
  const char* name;
  Json config;  // the good one
  std::function<void(Json&)> spoil;
  ErrorCode code;
  std::vector<const char*> fragments;
};

std::function<void(Json&)> set(const char* key, Json value) {
  return [key, value](Json& config) { config[key] = value; };
}
std::function<void(Json&)> without(const char* key) {
  return [key](Json& config) { config.erase(key); };
}

std::vector<BadConfig> bad_configs() {
  const Json llama = testing::llama_sample().config, opt = testing::opt_sample().config;
  const Json b7 = falcon_sample(FalconStyle::b7).config, rw = falcon_sample(FalconStyle::rw).config;
  const ErrorCode corrupt = ErrorCode::corrupt, unsupported = ErrorCode::unsupported;
  const auto scaling = [](Json value) { return set("rope_scaling", std::move(value)); };
  std::vector<BadConfig> rows = {
      {"unknown type",
       llama,
       set("model_type", "bert"),
       unsupported,
       {"bert", "LlamaForCausalLM", "FalconForCausalLM"}},
      {"unknown architecture",
       llama,
       set("architectures", {"LlamaForSequenceClassification"}),
       unsupported,
       {"LlamaForSequenceClassification", "OPTForCausalLM"}},
      {"architecture not a list", llama, set("architectures", 3), corrupt, {"architectures"}},
      {"neither name",
       llama,
       [](Json& c) { c.erase("model_type"), c.erase("architectures"); },
       corrupt,
       {"model_type"}},
      {"type not text", llama, set("model_type", 7), corrupt, {"model_type", "a string"}},
      {"hidden zero", llama, set("hidden_size", 0), corrupt, {"hidden_size", "0"}},
      {"hidden negative", llama, set("hidden_size", -8), corrupt, {"hidden_size", "-8"}},
      {"hidden huge", llama, set("hidden_size", 1000001), corrupt, {"hidden_size", "1000000"}},
      {"hidden 2^63", llama, set("hidden_size", uint64_t{1} << 63), corrupt, {"hidden_size"}},
      {"hidden fraction", llama, set("hidden_size", 24.5), corrupt, {"hidden_size", "integer"}},
      {"hidden text", llama, set("hidden_size", "24"), corrupt, {"hidden_size"}},
      {"hidden list", llama, set("hidden_size", {24}), corrupt, {"hidden_size"}},
      {"layers huge", llama, set("num_hidden_layers", 1000000000), corrupt, {"num_hidden_layers", "10000"}},
      {"layers zero", opt, set("num_hidden_layers", 0), corrupt, {"num_hidden_layers"}},
      {"vocabulary huge", llama, set("vocab_size", 10000001), corrupt, {"vocab_size"}},
      {"heads do not divide", llama, set("num_attention_heads", 5), corrupt, {"5 attention heads", "24"}},
      {"kv heads do not divide", llama, set("num_key_value_heads", 3), corrupt, {"4 heads", "3 key-value"}},
      {"kv heads zero", llama, set("num_key_value_heads", 0), corrupt, {"num_key_value_heads"}},
      {"more kv heads", llama, set("num_key_value_heads", 8), corrupt, {"8 key-value"}},
      {"odd head", llama, set("head_dim", 5), corrupt, {"even", "5"}},
      {"head huge", llama, set("head_dim", 1 << 20), corrupt, {"head_dim"}},
      {"activation unknown", llama, set("hidden_act", "swiglu"), unsupported, {"swiglu", "silu"}},
      {"activation a number", opt, set("activation_function", 1), corrupt, {"activation_function"}},
      {"eps zero", llama, set("rms_norm_eps", 0), corrupt, {"rms_norm_eps"}},
      {"eps negative", b7, set("layer_norm_epsilon", -1e-5), corrupt, {"layer_norm_epsilon"}},
      {"eps large", llama, set("rms_norm_eps", 1e30), corrupt, {"rms_norm_eps"}},
      {"positions zero", llama, set("max_position_embeddings", 0), corrupt, {"max_position_embeddings"}},
      {"theta negative", llama, set("rope_theta", -1), corrupt, {"rope_theta"}},
      {"theta text", llama, set("rope_theta", "1e6"), corrupt, {"rope_theta"}},
      {"tied a number", llama, set("tie_word_embeddings", 1), corrupt, {"tie_word_embeddings", "true or false"}},
      {"rope dynamic",
       llama,
       scaling({{"type", "dynamic"}, {"factor", 2}}),
       unsupported,
       {"dynamic", "linear, llama3"}},
      {"rope yarn", llama, scaling({{"rope_type", "yarn"}, {"factor", 2}}), unsupported, {"yarn"}},
      {"rope longrope", llama, scaling({{"rope_type", "longrope"}, {"short_factor", {1}}}), unsupported, {"longrope"}},
      {"rope without type", llama, scaling({{"factor", 2}}), corrupt, {"rope_type"}},
      {"rope without factor", llama, scaling({{"type", "linear"}}), corrupt, {"factor"}},
      {"rope factor zero", llama, scaling({{"type", "linear"}, {"factor", 0}}), corrupt, {"factor"}},
      {"rope not an object", llama, scaling("linear"), corrupt, {"rope_scaling"}},
      {"rope section", llama, scaling({{"type", "default"}, {"mrope_section", {1, 2}}}), corrupt, {"mrope_section"}},
      {"rope partial",
       llama,
       set("rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}),
       unsupported,
       {"partial_rotary_factor", "0.5"}},
      {"rope per layer",
       llama,
       set("rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}),
       corrupt,
       {"full_attention"}},
      {"llama3 without its keys", llama, scaling({{"type", "llama3"}, {"factor", 8}}), corrupt, {"low_freq_factor"}},
      {"llama3 upside down",
       llama,
       scaling({{"type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}),
       corrupt,
       {"high_freq_factor"}},
      {"rope twice",
       llama,
       [](Json& c) {
         c["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
         c["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4}};
       },
       corrupt,
       {"disagree"}},
      {"partial rotary", llama, set("partial_rotary_factor", 0.25), unsupported, {"partial_rotary_factor"}},
      {"soft caps", llama, set("final_logit_softcapping", 30.0), unsupported, {"final_logit_softcapping", "30"}},
      {"experts", llama, set("num_local_experts", 8), unsupported, {"num_local_experts"}},
      {"query norm", llama, set("use_qk_norm", true), unsupported, {"use_qk_norm"}},
      {"embedding multiplier", llama, set("embedding_multiplier", 12), unsupported, {"embedding_multiplier"}},
      {"window zero", mistral(), set("sliding_window", 0), corrupt, {"sliding_window"}},
      {"layer types", qwen2(), set("layer_types", {"linear_attention"}), unsupported, {"linear_attention"}},
      {"projection zero", opt, set("word_embed_proj_dim", 0), corrupt, {"word_embed_proj_dim"}},
      {"norm place a number", opt, set("do_layer_norm_before", 1), corrupt, {"do_layer_norm_before"}},
      {"falcon heads", b7, set("num_attention_heads", 5), corrupt, {"5 attention heads"}},
      {"falcon norms 3",
       falcon_sample(FalconStyle::b40).config,
       set("num_ln_in_parallel_attn", 3),
       corrupt,
       {"num_ln_in_parallel_attn"}},
      {"falcon norms 2 in 7b", b7, set("num_ln_in_parallel_attn", 2), unsupported, {"num_ln_in_parallel_attn"}},
      {"falcon kv heads in rw", rw, set("num_kv_heads", 2), unsupported, {"new_decoder_architecture"}},
      {"falcon kv heads uneven",
       falcon_sample(FalconStyle::b40).config,
       set("num_kv_heads", 3),
       corrupt,
       {"3 key-value"}},
      {"falcon residual",
       b7,
       set("apply_residual_connection_post_layernorm", true),
       unsupported,
       {"apply_residual_connection_post_layernorm"}},
  };
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"})
    rows.push_back({key, llama, without(key), corrupt, {key, "missing"}});
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "ffn_dim"})
    rows.push_back({key, opt, without(key), corrupt, {key, "missing"}});
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"})
    rows.push_back({key, b7, without(key), corrupt, {key, "missing"}});
  return rows;
}

TEST(Families, RefuseBadConfigs) {
  const std::vector<BadConfig> rows = bad_configs();
  EXPECT_GE(rows.size(), 60u);
  for (const BadConfig& row : rows) {
    SCOPED_TRACE(row.name);
    Json config = row.config;
    expect_ok(read_family(config, "some/config.json"));
    row.spoil(config);
    const auto result = read_family(config, "some/config.json");
    expect_error(result, row.code, "some/config.json");
    for (const char* fragment : row.fragments) expect_error(result, row.code, fragment);
  }
}

TEST(Families, RefuseWhatIsNoObject) {
  expect_error(read_family(Json::array({1}), "c.json"), ErrorCode::corrupt, "c.json", "object");
  expect_error(read_family(Json("text"), "c.json"), ErrorCode::corrupt, "object");
}

}  // namespace
}  // namespace nibble
