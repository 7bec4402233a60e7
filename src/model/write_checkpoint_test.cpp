// Writing a checkpoint is the inverse of reading one.
#include <gtest/gtest.h>

#include <map>

#include "model/model.h"
#include "model/storage.h"
#include "model/testing.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::expect_ok;
using testing::FalconStyle;
using testing::OwnedTensor;
using testing::Sample;
using testing::TemporaryFolder;
using testing::write_model;

struct Stored {
  DType dtype;
  std::vector<int64_t> shape;
  Bytes bytes;
  bool operator==(const Stored&) const = default;
};

std::map<std::string, Stored> tensors_of(const std::filesystem::path& folder) {
  std::map<std::string, Stored> out;
  auto checkpoint = Checkpoint::open(folder);
  expect_ok(checkpoint);
  for (const TensorView* tensor : checkpoint->tensors())
    out[tensor->name] = {tensor->dtype, tensor->shape, Bytes(tensor->bytes.begin(), tensor->bytes.end())};
  return out;
}

void expect_same_tensors(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto left = tensors_of(a), right = tensors_of(b);
  EXPECT_EQ(left.size(), right.size());
  for (const auto& [name, tensor] : left) {
    ASSERT_TRUE(right.contains(name)) << name;
    EXPECT_TRUE(right.at(name) == tensor) << name;
  }
}

std::vector<Sample> samples() {
  return {testing::llama_sample(),
          testing::opt_sample(),
          testing::opt_sample(true),
          testing::falcon_sample(FalconStyle::b7),
          testing::falcon_sample(FalconStyle::b40),
          testing::falcon_sample(FalconStyle::b11),
          testing::falcon_sample(FalconStyle::rw)};
}

TEST(WriteCheckpoint, GivesBackEveryBit) {
  for (const Sample& sample : samples()) {
    SCOPED_TRACE(sample.config["architectures"][0].get<std::string>());
    TemporaryFolder folder;
    write_model(folder / "in", sample.config, sample.tensors);
    auto source = open_model(folder / "in");
    expect_ok(source);
    expect_ok(write_checkpoint(**source, folder / "out", Levels::f32));
    expect_same_tensors(folder / "in", folder / "out");
    EXPECT_FALSE(std::filesystem::exists(folder / "out.partial"));
    Json config = sample.config;
    config["torch_dtype"] = "float32";
    EXPECT_EQ(*read_json(folder / "out" / "config.json"), config);
  }
}

TEST(WriteCheckpoint, SixteenBits) {
  for (const auto& [levels, type, name] :
       {std::tuple{Levels::f16, DType::f16, "float16"}, {Levels::bf16, DType::bf16, "bfloat16"}}) {
    TemporaryFolder folder;
    Sample sample = testing::falcon_sample(FalconStyle::rw);
    write_model(folder / "in", sample.config, sample.tensors);
    auto source = open_model(folder / "in");
    expect_ok(write_checkpoint(**source, folder / "out", levels));
    for (OwnedTensor& tensor : sample.tensors) tensor = testing::as_type(tensor, type);
    write_model(folder / "expected", sample.config, sample.tensors);
    expect_same_tensors(folder / "expected", folder / "out");
    EXPECT_EQ((*read_json(folder / "out" / "config.json"))["torch_dtype"], name);
  }
}

TEST(WriteCheckpoint, ShardsHoldWholeBlocks) {
  TemporaryFolder folder;
  const Sample sample = testing::llama_sample();
  write_model(folder / "in", sample.config, sample.tensors);
  auto source = open_model(folder / "in");
  // Two blocks of 12,864 bytes; globals of 2208.
  const std::pair<int64_t, int64_t> files_for[] = {{1, 3}, {15'071, 3}, {15'072, 2}, {1 << 20, 1}};
  for (const auto& [limit, files] : files_for) {
    expect_ok(write_checkpoint(**source, folder / "out", Levels::f32, {.force = true, .shard_bytes = limit}));
    expect_same_tensors(folder / "in", folder / "out");
    auto checkpoint = Checkpoint::open(folder / "out");
    EXPECT_EQ(static_cast<int64_t>(checkpoint->files().size()), files) << limit;
  }
}

TEST(WriteCheckpoint, DtypeKeyOfEitherSpelling) {
  TemporaryFolder folder;
  Sample sample = testing::llama_sample();
  sample.config.erase("torch_dtype");
  sample.config["dtype"] = "float32";
  write_model(folder / "in", sample.config, sample.tensors);
  expect_ok(write_checkpoint(**open_model(folder / "in"), folder / "out", Levels::bf16));
  const Json config = *read_json(folder / "out" / "config.json");
  EXPECT_EQ(config["dtype"], "bfloat16");
  EXPECT_FALSE(config.contains("torch_dtype"));
}

TEST(WriteCheckpoint, RefusesWhatDoesNotFit) {
  TemporaryFolder folder;
  Sample sample = testing::llama_sample();
  const float large = 65520;
  std::memcpy(testing::find_in(sample.tensors, "model.layers.1.mlp.up_proj.weight").bytes.data(), &large, 4);
  write_model(folder / "in", sample.config, sample.tensors);
  auto source = open_model(folder / "in");
  expect_error(write_checkpoint(**source, folder / "out", Levels::f16), ErrorCode::usage,
               "model.layers.1.mlp.up_proj.weight", "65520", "F16");
  EXPECT_EQ(testing::entries_in(folder.path()), 1) << "nothing but the input";
  expect_ok(write_checkpoint(**source, folder / "out", Levels::bf16));
  expect_error(write_checkpoint(**source, folder / "out", Levels::bf16), ErrorCode::usage, "out");
}

// A quantized folder becomes the floats that its codes stand for.
TEST(WriteCheckpoint, Dequantizes) {
  TemporaryFolder folder;
  Sample sample = testing::falcon_sample(FalconStyle::b40);
  write_model(folder / "in", sample.config, sample.tensors);
  auto source = open_model(folder / "in");
  BlockWeights block = *(*source)->block(0);
  LinearWeight& k = block[Role::k];
  LinearWeight codes;
  codes.rows = k.rows;
  codes.columns = k.columns;
  codes.format = *parse_format("int4:row");
  codes.activations = *parse_format("int4:token:asym");
  codes.kept_columns = {3};
  codes.codes.assign(static_cast<size_t>(k.rows * 12), std::byte{0x9F});  // codes 15, 9, 15, ...; 23 of them
  codes.scales.assign(static_cast<size_t>(k.rows), 0.5f);
  codes.kept.assign(static_cast<size_t>(k.rows), f32_to_f16(7.25f));
  block[Role::k] = codes;
  const GlobalWeights globals = *(*source)->globals();
  const NamedTensors first = global_tensors(globals), second = block_tensors(block, 0);
  std::vector<TensorView> views = first.tensors;
  views.insert(views.end(), second.tensors.begin(), second.tensors.end());
  Json config = sample.config;
  config["quantization_config"] =
      quantization_config_for(Json::object(), (*source)->spec(), {{"blocks.0.k", linear_entry(codes)}});
  std::filesystem::create_directories(folder / "packed");
  testing::put(folder / "packed" / "config.json", dump_json(config));
  testing::put(folder / "packed" / "tokenizer.json", "{}");
  expect_ok(write_safetensors(folder / "packed" / "model.safetensors", views));

  auto packed = open_model(folder / "packed");
  expect_ok(packed);
  expect_ok(write_checkpoint(**packed, folder / "out", Levels::f32));
  EXPECT_FALSE(read_json(folder / "out" / "config.json")->contains("quantization_config"));
  EXPECT_EQ(testing::get(folder / "out" / "tokenizer.json"), "{}");
  auto floats = open_model(folder / "out");
  expect_ok(floats);
  EXPECT_EQ((*floats)->quantization(), nullptr);
  const BlockWeights out = *(*floats)->block(0), in = *(*source)->block(0);
  EXPECT_EQ(out[Role::q].codes, in[Role::q].codes);
  EXPECT_EQ(out[Role::v].codes, in[Role::v].codes);
  // Symmetric 4-bit codes mean scale * (code - 8); column 3 is the kept one, so the codes after it alternate shifted.
  for (int64_t n : {int64_t{0}, k.rows - 1})
    for (int64_t c = 0; c < 24; ++c) {
      const int64_t place = c < 3 ? c : c - 1;
      const float expected = c == 3 ? 7.25f : place % 2 == 0 ? 3.5f : 0.5f;
      EXPECT_EQ(testing::value_at(out[Role::k], n, c), expected) << c;
    }
}

TEST(WriteCheckpoint, NeverReplacesTheModelThatItReads) {
  TemporaryFolder folder;
  const Sample sample = testing::llama_sample();
  write_model(folder / "in", sample.config, sample.tensors);
  std::filesystem::create_directory_symlink(folder / "in", folder / "alias");
  auto source = open_model(folder / "in");
  for (const char* name : {"in", "in/", "alias"})
    expect_error(write_checkpoint(**source, folder / name, Levels::bf16, {.force = true}), ErrorCode::usage,
                 "the model itself");
  EXPECT_TRUE(open_model(folder / "in"));
}

TEST(WriteCheckpoint, RefusesASpecThatTheFamilyCannotExpress) {
  TemporaryFolder folder;
  const Sample sample = testing::llama_sample();
  write_model(folder / "in", sample.config, sample.tensors);
  auto source = open_model(folder / "in");
  testing::OwnedTensors tensors;
  Spec spec = (*source)->spec();
  spec.activation = Activation::relu;
  const GlobalWeights globals = *(*source)->globals();
  std::vector<BlockWeights> blocks = {*(*source)->block(0), *(*source)->block(1)};
  std::vector<TensorView> views = global_tensors(globals).tensors;
  for (int64_t i = 0; i < 2; ++i)
    for (const TensorView& view : block_tensors(blocks[static_cast<size_t>(i)], i).tensors) views.push_back(view);
  Json config = sample.config;
  config["quantization_config"] = quantization_config_for(Json::object(), spec, Json::object());
  std::filesystem::create_directories(folder / "packed");
  testing::put(folder / "packed" / "config.json", dump_json(config));
  expect_ok(write_safetensors(folder / "packed" / "model.safetensors", views));
  auto packed = open_model(folder / "packed");
  expect_ok(packed);
  EXPECT_EQ((*packed)->spec().activation, Activation::relu);
  expect_error(write_checkpoint(**packed, folder / "out", Levels::f32), ErrorCode::unsupported, "activation", "relu");
}

}  // namespace
}  // namespace nibble
