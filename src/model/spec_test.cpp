#include "model/spec.h"

#include <gtest/gtest.h>

#include "core/testing.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::expect_ok;

Spec small() {
  Spec spec;
  spec.family = "llama";
  spec.vocabulary = 100;
  spec.hidden = spec.embedding = 24;
  spec.layers = 3;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 6;
  spec.ffn = 40;
  spec.max_positions = 64;
  spec.gated = true;
  return spec;
}

TEST(Roles, NamesAndBack) {
  for (Role role : kAllRoles) EXPECT_EQ(*role_named(name_of(role)), role);
  expect_error(role_named("fc1"), ErrorCode::usage, "fc1", "down");
}

TEST(Spec, ShapesOfRoles) {
  const Spec spec = small();
  EXPECT_EQ(shape_of(spec, Role::q).rows, 24);
  EXPECT_EQ(shape_of(spec, Role::k).rows, 12);
  EXPECT_EQ(shape_of(spec, Role::v).columns, 24);
  EXPECT_EQ(shape_of(spec, Role::o).columns, 24);
  EXPECT_EQ(shape_of(spec, Role::down).columns, 40);
  Spec plain = spec;
  plain.gated = false;
  EXPECT_EQ(shape_of(plain, Role::gate).rows, 0);
}

TEST(Spec, SitesInExecutionOrder) {
  const auto names = [](const Spec& spec) {
    std::string text;
    for (const Site& site : sites_of(spec)) {
      text += site.name + "(";
      for (Role role : site.roles) text += std::string(name_of(role)) + " ";
      text += ") ";
    }
    return text;
  };
  Spec spec = small();
  EXPECT_EQ(names(spec), "qkv(q k v ) o(o ) gate_up(gate up ) down(down ) ");
  spec.gated = false;
  EXPECT_EQ(names(spec), "qkv(q k v ) o(o ) up(up ) down(down ) ");
  spec.parallel = true;
  EXPECT_EQ(names(spec), "qkv(q k v ) o(o ) up(up ) down(down ) ");
  spec.shared_norm = true;
  EXPECT_EQ(names(spec), "qkv_up(q k v up ) o(o ) down(down ) ");
}

TEST(Spec, CountsParameters) {
  Spec spec = small();
  // q 576, k and v 288 each, o 576, three of 960, two norms of 24; embedding and head 2400 each, a last norm.
  EXPECT_EQ(parameter_count(spec), 3 * (576 + 288 + 288 + 576 + 3 * 960 + 48) + 2 * 2400 + 24);
  spec.tied_head = true;
  spec.bias[static_cast<size_t>(Role::k)] = true;
  EXPECT_EQ(parameter_count(spec), 3 * (576 + 288 + 12 + 288 + 576 + 3 * 960 + 48) + 2400 + 24);
  spec.norm = Norm::layer;
  spec.final_norm = false;
  spec.positions = Positions::learned;
  spec.position_offset = 2;
  spec.embedding = 12;
  EXPECT_EQ(parameter_count(spec), 3 * (576 + 288 + 12 + 288 + 576 + 3 * 960 + 96) + 1200 + 2 * 288 + 66 * 24);
  spec.norm_affine = false;
  EXPECT_EQ(parameter_count(spec), 3 * (576 + 288 + 12 + 288 + 576 + 3 * 960) + 1200 + 2 * 288 + 66 * 24);
}

TEST(Spec, JsonKeepsEveryKnob) {
  Spec spec = small();
  spec.embedding = 12;
  spec.norm = Norm::layer;
  spec.norm_eps = 1.0 / 3;
  spec.final_norm = false;
  spec.parallel = spec.shared_norm = true;
  spec.norm_affine = false;
  spec.activation = Activation::gelu_tanh;
  spec.positions = Positions::alibi;
  spec.position_offset = 2;
  spec.rope = {123456.75, RopeScaling::llama3, 8.5, 0.5, 3.5, 4096};
  spec.alibi_scale = 1 / 7.0;
  spec.tied_head = true;
  spec.bias = {true, false, true, false, true, false, true};
  const Json json = to_json(spec);
  auto text = parse_json(dump_json(json), "text");
  expect_ok(text);
  auto back = spec_from_json(*text, "here");
  expect_ok(back);
  EXPECT_EQ(to_json(*back), json);
  EXPECT_EQ(back->rope, spec.rope);
  EXPECT_EQ(back->alibi_scale, spec.alibi_scale);
  EXPECT_EQ(back->bias, spec.bias);
  EXPECT_TRUE(back->shared_norm);
  spec = small();
  spec.post_norm = true;
  EXPECT_TRUE(spec_from_json(to_json(spec), "here")->post_norm);
}

TEST(Spec, JsonNeedsEveryKeyAndNoOther) {
  const Json good = to_json(small());
  for (const auto& item : good.items()) {
    Json less = good;
    less.erase(item.key());
    expect_error(spec_from_json(less, "here"), ErrorCode::corrupt, "here", item.key());
  }
  Json more = good;
  more["twist"] = 1;
  expect_error(spec_from_json(more, "here"), ErrorCode::corrupt, "twist");
  more = good;
  more["rope"]["twist"] = 1;
  expect_error(spec_from_json(more, "here"), ErrorCode::corrupt, "twist", "rope");
}

struct BadSpec {
  const char* key;
  Json value;
  ErrorCode code;
  const char* fragment;
};

TEST(Spec, JsonRefusesBadValues) {
  const BadSpec bad[] = {
      {"hidden", 0, ErrorCode::corrupt, "hidden"},
      {"hidden", -24, ErrorCode::corrupt, "-24"},
      {"hidden", 1000001, ErrorCode::corrupt, "1000001"},
      {"hidden", 24.5, ErrorCode::corrupt, "24.5"},
      {"hidden", "24", ErrorCode::corrupt, "hidden"},
      {"layers", 10001, ErrorCode::corrupt, "layers"},
      {"vocabulary", 10000001, ErrorCode::corrupt, "vocabulary"},
      {"vocabulary", uint64_t{18446744073709551615u}, ErrorCode::corrupt, "vocabulary"},
      {"kv_heads", 3, ErrorCode::corrupt, "3 key-value heads"},
      {"head_dim", 7, ErrorCode::corrupt, "even"},
      {"head_dim", 65537, ErrorCode::corrupt, "head_dim"},
      {"position_offset", -1, ErrorCode::corrupt, "position_offset"},
      {"norm", "batch", ErrorCode::unsupported, "batch"},
      {"norm_eps", 0, ErrorCode::corrupt, "norm_eps"},
      {"alibi_scale", 0, ErrorCode::corrupt, "alibi_scale"},
      {"activation", "tanh", ErrorCode::unsupported, "silu, gelu"},
      {"positions", "sinus", ErrorCode::unsupported, "sinus"},
      {"gated", 1, ErrorCode::corrupt, "gated"},
      {"shared_norm", true, ErrorCode::corrupt, "parallel"},
      {"bias", {"q", "fc1"}, ErrorCode::corrupt, "fc1"},
      {"bias", "q", ErrorCode::corrupt, "bias"},
      {"rope", 3, ErrorCode::corrupt, "rope"},
  };
  for (const BadSpec& row : bad) {
    SCOPED_TRACE(row.key);
    Json json = to_json(small());
    json[row.key] = row.value;
    expect_error(spec_from_json(json, "here"), row.code, "here", row.fragment);
  }
}

TEST(Spec, RefusesContradictions) {
  Spec spec = small();
  spec.parallel = spec.post_norm = true;
  expect_error(validate(spec, "x"), ErrorCode::unsupported, "parallel");
  spec = small();
  spec.heads = 100'000;
  spec.head_dim = 65'536;
  expect_error(validate(spec, "x"), ErrorCode::corrupt, "wider");
  spec = small();
  spec.gated = false;
  spec.bias[static_cast<size_t>(Role::gate)] = true;
  expect_error(validate(spec, "x"), ErrorCode::corrupt, "gate");
  spec = small();
  spec.rope.high_frequency_factor = spec.rope.low_frequency_factor;
  expect_error(validate(spec, "x"), ErrorCode::corrupt, "high_frequency_factor");
}

TEST(Spec, LargestModelDoesNotOverflow) {
  Spec spec = small();
  spec.vocabulary = kMaxVocabulary;
  spec.hidden = spec.embedding = kMaxHidden;
  spec.layers = kMaxLayers;
  spec.ffn = kMaxFfn;
  spec.heads = spec.kv_heads = 10'000;
  spec.head_dim = 1000;
  expect_ok(validate(spec, "x"));
  // 10^4 layers of four linears of 10^13 and three of 10^13, norms, and twice 10^13.
  EXPECT_EQ(parameter_count(spec),
            10'000 * (7 * int64_t{10'000'000'000'000} + 2'000'000) + 2 * int64_t{10'000'000'000'000} + 1'000'000);
}

}  // namespace
}  // namespace nibble
