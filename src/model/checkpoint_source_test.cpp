// Reading checkpoints made by hand: the expected rows of fused tensors are counted out here, head by head.
#include <gtest/gtest.h>

#include "model/model.h"
#include "model/testing.h"

namespace nibble {
namespace {

using testing::as_type;
using testing::count_of;
using testing::expect_error;
using testing::expect_ok;
using testing::falcon_sample;
using testing::FalconStyle;
using testing::find_in;
using testing::float_at;
using testing::OwnedTensor;
using testing::Sample;
using testing::scattered;
using testing::TemporaryFolder;
using testing::value_at;
using testing::write_model;

constexpr const char* kFused = "transformer.h.0.self_attention.query_key_value";

Result<std::unique_ptr<ModelSource>> open_sample(const TemporaryFolder& folder, const Sample& sample) {
  write_model(folder.path(), sample.config, sample.tensors);
  return open_model(folder.path());
}

void expect_linear(const LinearWeight& weight, const OwnedTensor& tensor, const std::string& what) {
  ASSERT_EQ(weight.rows, tensor.shape[0]) << what;
  ASSERT_EQ(weight.columns, tensor.shape[1]) << what;
  expect_ok(weight.validate(what));
  EXPECT_EQ(weight.codes, tensor.bytes) << what;
}

void expect_floats(const std::vector<float>& values, const OwnedTensor& tensor) {
  ASSERT_EQ(static_cast<int64_t>(values.size()), count_of(tensor.shape)) << tensor.name;
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], float_at(tensor, static_cast<int64_t>(i)));
}

TEST(CheckpointSource, Llama) {
  TemporaryFolder folder;
  Sample sample = testing::llama_sample();
  auto source = open_sample(folder, sample);
  expect_ok(source);
  EXPECT_EQ((*source)->quantization(), nullptr);
  EXPECT_EQ((*source)->config()["vocab_size"], 11);
  EXPECT_EQ((*source)->folder(), folder.path());
  EXPECT_EQ((*source)->file_bytes(), static_cast<int64_t>(std::filesystem::file_size(folder / "model.safetensors")));
  auto globals = (*source)->globals();
  expect_ok(globals);
  expect_linear(globals->embedding, find_in(sample.tensors, "model.embed_tokens.weight"), "embedding");
  ASSERT_TRUE(globals->head);
  expect_linear(*globals->head, find_in(sample.tensors, "lm_head.weight"), "head");
  expect_floats(globals->final_norm.gain, find_in(sample.tensors, "model.norm.weight"));
  EXPECT_TRUE(globals->final_norm.bias.empty() && globals->position_rows.empty() && !globals->project_in);
  auto block = (*source)->block(1);
  expect_ok(block);
  const std::pair<Role, const char*> names[] = {
      {Role::q, "self_attn.q_proj"}, {Role::k, "self_attn.k_proj"}, {Role::v, "self_attn.v_proj"},
      {Role::o, "self_attn.o_proj"}, {Role::gate, "mlp.gate_proj"}, {Role::up, "mlp.up_proj"},
      {Role::down, "mlp.down_proj"},
  };
  for (const auto& [role, stem] : names) {
    const std::string name = std::string("model.layers.1.") + stem + ".weight";
    expect_linear((*block)[role], find_in(sample.tensors, name), name);
    EXPECT_TRUE((*block)[role].bias.empty());
  }
  expect_floats(block->attention_norm.gain, find_in(sample.tensors, "model.layers.1.input_layernorm.weight"));
  expect_floats(block->mlp_norm.gain, find_in(sample.tensors, "model.layers.1.post_attention_layernorm.weight"));
}

TEST(CheckpointSource, KeepsStoredTypesAndWidensBiases) {
  for (DType type : {DType::f16, DType::bf16}) {
    TemporaryFolder folder;
    Sample sample = testing::opt_sample();
    for (OwnedTensor& tensor : sample.tensors) tensor = as_type(tensor, type);
    auto source = open_sample(folder, sample);
    expect_ok(source);
    auto block = (*source)->block(0);
    expect_ok(block);
    const LinearWeight& up = (*block)[Role::up];
    EXPECT_EQ(up.format.levels, type == DType::f16 ? Levels::f16 : Levels::bf16);
    EXPECT_EQ(up.codes, find_in(sample.tensors, "model.decoder.layers.0.fc1.weight").bytes);
    const OwnedTensor exact = scattered("model.decoder.layers.0.fc1.bias", {20});
    ASSERT_EQ(up.bias.size(), 20u);
    for (int64_t i = 0; i < 20; ++i) EXPECT_NEAR(up.bias[static_cast<size_t>(i)], float_at(exact, i), 4e-3);
    EXPECT_EQ((*source)->globals()->embedding.format.levels, up.format.levels);
  }
}

TEST(CheckpointSource, OptBothWays) {
  for (bool narrow : {false, true}) {
    TemporaryFolder folder;
    Sample sample = testing::opt_sample(narrow);
    auto source = open_sample(folder, sample);
    expect_ok(source);
    auto globals = (*source)->globals();
    expect_ok(globals);
    EXPECT_EQ(globals->embedding.columns, narrow ? 8 : 16);
    EXPECT_FALSE(globals->head);
    expect_floats(globals->position_rows, find_in(sample.tensors, "model.decoder.embed_positions.weight"));
    EXPECT_EQ(globals->project_in.has_value(), narrow);
    EXPECT_EQ(globals->project_out.has_value(), narrow);
    EXPECT_EQ(globals->final_norm.gain.empty(), narrow);
    if (narrow)
      expect_linear(*globals->project_out, find_in(sample.tensors, "model.decoder.project_out.weight"), "out");
    auto block = (*source)->block(0);
    expect_ok(block);
    const std::string layer = "model.decoder.layers.0.";
    expect_linear((*block)[Role::o], find_in(sample.tensors, layer + "self_attn.out_proj.weight"), "o");
    expect_floats((*block)[Role::down].bias, find_in(sample.tensors, layer + "fc2.bias"));
    expect_floats(block->attention_norm.bias, find_in(sample.tensors, layer + "self_attn_layer_norm.bias"));
    expect_floats(block->mlp_norm.gain, find_in(sample.tensors, layer + "final_layer_norm.weight"));
    EXPECT_EQ((*block)[Role::gate].rows, 0);
  }
}

TEST(CheckpointSource, NamesWithAndWithoutTheirBase) {
  for (const auto& [base, kept] : {std::pair{"model.decoder.", "decoder."}, {"model.decoder.", ""}}) {
    TemporaryFolder folder;
    Sample sample = testing::opt_sample();
    for (OwnedTensor& tensor : sample.tensors) tensor.name = kept + tensor.name.substr(std::string(base).size());
    auto source = open_sample(folder, sample);
    expect_ok(source);
    expect_ok((*source)->block(0));
    expect_ok((*source)->globals());
  }
  for (Sample sample : {testing::llama_sample(), falcon_sample(FalconStyle::b7)}) {
    TemporaryFolder folder;
    for (OwnedTensor& tensor : sample.tensors)
      if (tensor.name != "lm_head.weight") tensor.name = tensor.name.substr(tensor.name.find('.') + 1);
    expect_ok(open_sample(folder, sample));
  }
}

// Row of query_key_value that holds dimension d of a query head, key head or value head; 4 query heads of 6.
struct FusedOracle {
  FalconStyle style;
  std::function<int64_t(int64_t head, int64_t d)> q, k, v;
  int64_t kv_heads;
};

std::vector<FusedOracle> fused_oracles() {
  const auto b7 = [](int64_t slot) { return [slot](int64_t h, int64_t d) { return (slot + h) * 6 + d; }; };
  // Two query heads, a key head and a value head in each of the two groups.
  const auto q40 = [](int64_t h, int64_t d) {
    constexpr int64_t kSlots[] = {0, 1, 4, 5};
    return kSlots[h] * 6 + d;
  };
  const auto k40 = [](int64_t h, int64_t d) { return (h == 0 ? 2 : 6) * 6 + d; };
  const auto v40 = [](int64_t h, int64_t d) { return (h == 0 ? 3 : 7) * 6 + d; };
  const auto rw = [](int64_t slot) { return [slot](int64_t h, int64_t d) { return h * 18 + slot * 6 + d; }; };
  return {{FalconStyle::b7, b7(0), b7(4), b7(5), 1},
          {FalconStyle::b40, q40, k40, v40, 2},
          {FalconStyle::b11, q40, k40, v40, 2},
          {FalconStyle::rw, rw(0), rw(1), rw(2), 4}};
}

void expect_rows(const LinearWeight& weight, int64_t heads, const std::function<int64_t(int64_t, int64_t)>& row) {
  ASSERT_EQ(weight.rows, heads * 6);
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t d = 0; d < 6; ++d)
      for (int64_t c : {0, 1, 23}) EXPECT_EQ(value_at(weight, h * 6 + d, c), static_cast<float>(row(h, d) * 100 + c));
}

TEST(CheckpointSource, FalconFusedRows) {
  for (const FusedOracle& oracle : fused_oracles()) {
    SCOPED_TRACE(static_cast<int>(oracle.style));
    TemporaryFolder folder;
    Sample sample = falcon_sample(oracle.style);
    OwnedTensor& fused = find_in(sample.tensors, std::string(kFused) + ".weight");
    fused = testing::tensor_of(fused.name, fused.shape,
                               [](int64_t i) { return static_cast<float>(i / 24 * 100 + i % 24); });
    auto source = open_sample(folder, sample);
    expect_ok(source);
    auto block = (*source)->block(0);
    expect_ok(block);
    expect_rows((*block)[Role::q], 4, oracle.q);
    expect_rows((*block)[Role::k], oracle.kv_heads, oracle.k);
    expect_rows((*block)[Role::v], oracle.kv_heads, oracle.v);
    if (oracle.style != FalconStyle::rw) continue;
    const OwnedTensor& bias = find_in(sample.tensors, std::string(kFused) + ".bias");
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t d = 0; d < 6; ++d)
        EXPECT_EQ((*block)[Role::k].bias[static_cast<size_t>(h * 6 + d)], float_at(bias, oracle.k(h, d)));
  }
}

TEST(CheckpointSource, FalconNorms) {
  const auto norms_of = [](FalconStyle style, const char* attention, const char* mlp) {
    TemporaryFolder folder;
    Sample sample = falcon_sample(style);
    auto source = open_sample(folder, sample);
    expect_ok(source);
    auto block = (*source)->block(0);
    expect_ok(block);
    const std::string layer = "transformer.h.0.";
    expect_floats(block->attention_norm.gain, find_in(sample.tensors, layer + attention + ".weight"));
    expect_floats(block->attention_norm.bias, find_in(sample.tensors, layer + attention + ".bias"));
    if (mlp == nullptr) {
      EXPECT_TRUE(block->mlp_norm.gain.empty());
    } else {
      expect_floats(block->mlp_norm.gain, find_in(sample.tensors, layer + mlp + ".weight"));
    }
  };
  norms_of(FalconStyle::b7, "input_layernorm", nullptr);
  norms_of(FalconStyle::b11, "input_layernorm", nullptr);
  norms_of(FalconStyle::b40, "ln_attn", "ln_mlp");
  norms_of(FalconStyle::rw, "input_layernorm", "post_attention_layernorm");
}

TEST(CheckpointSource, LeftoversAreIgnored) {
  TemporaryFolder folder;
  Sample sample = testing::llama_sample();
  sample.tensors.push_back(scattered("model.layers.0.self_attn.rotary_emb.inv_freq", {3}));
  sample.tensors.push_back(scattered("model.layers.1.self_attn.masked_bias", {}));
  expect_ok(open_sample(folder, sample));
}

TEST(CheckpointSource, TiedHeadMayBeStoredAgain) {
  TemporaryFolder folder;
  Sample sample = testing::llama_sample();
  sample.config["tie_word_embeddings"] = true;
  find_in(sample.tensors, "lm_head.weight").bytes = find_in(sample.tensors, "model.embed_tokens.weight").bytes;
  auto source = open_sample(folder, sample);
  expect_ok(source);
  auto globals = (*source)->globals();
  expect_ok(globals);
  EXPECT_FALSE(globals->head);
  // Another matrix under that name is a contradiction.
  find_in(sample.tensors, "lm_head.weight").bytes[5] ^= std::byte{1};
  source = open_sample(folder, sample);
  expect_ok(source);
  expect_error((*source)->globals(), ErrorCode::corrupt, "lm_head.weight", "tie_word_embeddings");
}

// --- Checkpoints that must be refused, at open() or when the values are read -----------------------------------

struct BadCheckpoint {
  const char* name;
  std::function<void(Sample&)> spoil;
  ErrorCode code;
  std::vector<const char*> fragments;
};

std::function<void(Sample&)> reshape(const char* name, std::vector<int64_t> shape) {
  return [name, shape](Sample& sample) { find_in(sample.tensors, name) = scattered(name, shape); };
}
std::function<void(Sample&)> remove(const char* name) {
  return [name](Sample& sample) { std::erase_if(sample.tensors, [&](auto& tensor) { return tensor.name == name; }); };
}
std::function<void(Sample&)> add(const char* name, std::vector<int64_t> shape) {
  return [name, shape](Sample& sample) { sample.tensors.push_back(scattered(name, shape)); };
}
std::function<void(Sample&)> retype(const char* name, DType type) {
  return [name, type](Sample& sample) {
    OwnedTensor& tensor = find_in(sample.tensors, name);
    tensor.dtype = type;
    tensor.bytes.assign(static_cast<size_t>(count_of(tensor.shape) * bits_of(type) / 8), std::byte{0});
  };
}
std::function<void(Sample&)> poison(const char* name, int64_t at, float value) {
  return [=](Sample& sample) { std::memcpy(find_in(sample.tensors, name).bytes.data() + 4 * at, &value, 4); };
}

TEST(CheckpointSource, RefusesBadCheckpoints) {
  constexpr const char* kQ = "model.layers.1.self_attn.q_proj.weight";
  const ErrorCode corrupt = ErrorCode::corrupt, unsupported = ErrorCode::unsupported;
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const BadCheckpoint rows[] = {
      {"missing linear", remove(kQ), corrupt, {kQ, "missing"}},
      {"missing norm", remove("model.norm.weight"), corrupt, {"model.norm.weight"}},
      {"missing head", remove("lm_head.weight"), corrupt, {"lm_head.weight"}},
      {"missing embedding", remove("model.embed_tokens.weight"), corrupt, {"embedding", "model.embed_tokens.weight"}},
      {"wrong columns", reshape(kQ, {24, 23}), corrupt, {"model.safetensors", kQ, "[24, 23]", "[24, 24]"}},
      {"transposed", reshape("model.layers.0.mlp.down_proj.weight", {20, 24}), corrupt, {"[20, 24]", "[24, 20]"}},
      {"three dimensions", reshape(kQ, {24, 24, 1}), corrupt, {"[24, 24, 1]"}},
      {"wrong vocabulary", reshape("lm_head.weight", {12, 24}), corrupt, {"lm_head.weight", "[12, 24]", "[11, 24]"}},
      {"norm as a row", reshape("model.norm.weight", {1, 24}), corrupt, {"model.norm.weight", "[1, 24]"}},
      {"64-bit integers", retype(kQ, DType::i64), unsupported, {kQ, "I64", "F32, F16 and BF16"}},
      {"doubles", retype(kQ, DType::f64), unsupported, {kQ, "F64"}},
      {"8-bit floats", retype(kQ, DType::f8_e4m3), unsupported, {kQ, "F8_E4M3"}},
      {"packed",
       add("model.layers.0.self_attn.q_proj.qweight", {3, 24}),
       corrupt,
       {"q_proj.qweight", "does not belong"}},
      {"a bias that the config denies", add("model.layers.0.self_attn.q_proj.bias", {24}), corrupt, {"q_proj.bias"}},
      {"a layer too many", add("model.layers.2.input_layernorm.weight", {24}), corrupt, {"model.layers.2", "2 layers"}},
      {"a bias that the config promises",
       [](Sample& s) { s.config["attention_bias"] = true; },
       corrupt,
       {"model.layers.0.self_attn.q_proj.bias", "missing"}},
      {"more layers than tensors", [](Sample& s) { s.config["num_hidden_layers"] = 3; }, corrupt, {"model.layers.2"}},
      {"another width", [](Sample& s) { s.config["hidden_size"] = 48; }, corrupt, {"[11, 24]", "[11, 48]"}},
      {"NaN in a linear", poison(kQ, 30, nan), corrupt, {"model.safetensors", kQ, "nan at [1, 6]"}},
      {"infinity in a norm",
       poison("model.layers.1.input_layernorm.weight", 3, infinity),
       corrupt,
       {"model.layers.1.input_layernorm.weight"}},
      {"NaN in the embedding", poison("model.embed_tokens.weight", 0, nan), corrupt, {"model.embed_tokens.weight"}},
  };
  for (const BadCheckpoint& row : rows) {
    SCOPED_TRACE(row.name);
    TemporaryFolder folder;
    Sample sample = testing::llama_sample();
    row.spoil(sample);
    auto source = open_sample(folder, sample);
    const auto read = [&]() -> Status {
      NIBBLE_TRY(auto opened, std::move(source));
      NIBBLE_DO(opened->globals());
      NIBBLE_DO(opened->block(0));
      NIBBLE_DO(opened->block(1));
      return {};
    };
    const Status status = read();
    expect_error(status, row.code, "");
    for (const char* fragment : row.fragments) expect_error(status, row.code, fragment);
  }
}

TEST(OpenModel, SaysWhatAFolderLacks) {
  TemporaryFolder folder;
  expect_error(open_model(folder.path()), ErrorCode::corrupt, "config.json");
  expect_error(open_model(folder / "nowhere"), ErrorCode::io, "nowhere");
  testing::put(folder / "config.json", dump_json(testing::llama_sample().config));
  expect_error(open_model(folder.path()), ErrorCode::corrupt, "model.safetensors");
  testing::put(folder / "pytorch_model.bin", "x");
  expect_error(open_model(folder.path()), ErrorCode::unsupported, "pickle", "save_pretrained");
  expect_error(open_model(folder / "pytorch_model.bin"), ErrorCode::unsupported, "pickle");
  testing::put(folder / "config.json", "{\"model_type\": \"llama\", \"model_type\": \"opt\"}");
  expect_error(open_model(folder.path()), ErrorCode::corrupt, "config.json", "duplicate");
  testing::put(folder / "config.json", "[1]");
  expect_error(open_model(folder.path()), ErrorCode::corrupt, "config.json", "object");
}

TEST(OpenModel, RefusesOtherQuantizers) {
  TemporaryFolder folder;
  Sample sample = testing::llama_sample();
  for (const char* method : {"gptq", "awq", "compressed-tensors", "bitsandbytes", ""}) {
    sample.config["quantization_config"] = {{"quant_method", method}, {"bits", 4}};
    expect_error(open_sample(folder, sample), ErrorCode::unsupported, "config.json", method, "nibble");
  }
  sample.config["quantization_config"] = {{"bits", 4}};
  expect_error(open_sample(folder, sample), ErrorCode::corrupt, "quant_method");
  sample.config["quantization_config"] = 4;
  expect_error(open_sample(folder, sample), ErrorCode::corrupt, "quantization_config");
  sample.config["quantization_config"] = nullptr;
  expect_ok(open_sample(folder, sample));
}

}  // namespace
}  // namespace nibble
