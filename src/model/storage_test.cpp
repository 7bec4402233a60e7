// The quantized folder: what is written is read back, and what does not fit its config is refused.
#include "model/storage.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "model/testing.h"

namespace nibble {
namespace {

using testing::expect_error;
using testing::expect_ok;
using testing::OwnedTensor;
using testing::OwnedTensors;
using testing::Sample;
using testing::TemporaryFolder;
using testing::write_model;

struct Random {
  std::mt19937 engine{7};
  int64_t below(int64_t n) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(n)); }
  std::byte byte() { return static_cast<std::byte>(engine() & 255u); }
};

// Codes, tables and a sparse part for learned levels.
LinearWeight learned(LinearWeight out, Random& random) {
  const int64_t columns = out.dense_columns();
  if (out.format.bits == 0)
    for (int64_t k = 0; k < columns; ++k) out.widths.push_back(static_cast<uint8_t>(1 + random.below(8)));
  const MixedSizes mixed = MixedSizes::of(out.widths);
  out.codes.resize(static_cast<size_t>(out.rows * row_sizes(out.format, columns, false, mixed.code_bits).codes));
  for (std::byte& code : out.codes) code = random.byte();
  const int64_t levels = out.widths.empty() ? out.format.table_levels(out.rows, columns) : mixed.levels;
  const int64_t tables = out.widths.empty() ? levels / out.format.levels_count() : columns;
  for (int64_t t = 0; t < tables; ++t) {
    const int bits = out.widths.empty() ? out.format.bits : out.widths[static_cast<size_t>(t)];
    out.exponents.push_back(static_cast<int8_t>(random.below(7) - 3));
    for (int i = 0; bits <= kTableBits && i < 1 << bits; ++i)
      out.levels.push_back(std::ldexp(static_cast<float>(8 * i - 60), out.exponents.back()));
  }
  if (!out.widths.empty()) {
    for (int64_t n = 0; n < out.rows; ++n) {
      out.sparse.columns.push_back(static_cast<int32_t>(n % columns));
      out.sparse.values.push_back(0.5f * static_cast<float>(n));
      out.sparse.row_ends.push_back(static_cast<int32_t>(n + 1));
    }
  }
  return out;
}

// The same linear with random codes in a format; kept columns are 1, 4, 7, ...
LinearWeight quantized(const LinearWeight& from, const char* weights, const char* activations, int64_t kept,
                       bool sparse, Random& random) {
  LinearWeight out;
  out.rows = from.rows;
  out.columns = from.columns;
  out.format = *parse_format(weights);
  out.activations = *parse_format(activations);
  out.sparse24 = sparse;
  for (int32_t i = 0; i < kept; ++i) out.kept_columns.push_back(1 + 3 * i);
  if (out.format.is_learned()) return learned(std::move(out), random);
  const int64_t dense = out.dense_columns(), stored = sparse ? dense / 2 : dense;
  for (int64_t k = 0; out.format.bits == 0 && k < dense; ++k)
    out.widths.push_back(static_cast<uint8_t>(8 - k / out.format.group));
  const int64_t bits = out.widths.empty() ? stored * out.format.bits : MixedSizes::of(out.widths).code_bits;
  out.codes.resize(static_cast<size_t>(out.rows * packed_bytes(bits, 1)));
  for (std::byte& code : out.codes) code = random.byte();
  if (sparse) out.pattern.assign(static_cast<size_t>(out.rows * ((dense / 4 + 1) / 2)), std::byte{0xE4});
  if (out.format.outer) out.outer = 0.37f;
  const int64_t scales = out.format.scale == ScaleCodec::none ? 0 : out.rows * out.groups();
  for (int64_t i = 0; i < scales; ++i) {
    const bool byte = scale_bytes(out.format.scale) == 1;
    out.scales.push_back(byte ? scale_of_byte(static_cast<uint8_t>(1 + random.below(126)), out.format.scale)
                              : round_scale(0.01f * static_cast<float>(1 + random.below(99)), out.format.scale));
    const int width = out.group_bits(out.groups() > 0 ? i % out.groups() : 0);
    if (out.format.offset) out.offsets.push_back(static_cast<uint8_t>(random.below(int64_t{1} << width)));
  }
  for (int64_t i = 0; i < out.rows * kept; ++i)
    out.kept.push_back(round_kept(0.125f * static_cast<float>(i % 50), sparse ? Levels::bf16 : Levels::f16));
  if (sparse) out.kept_levels = Levels::bf16;
  out.bias = from.bias;
  return out;
}

// A quantized LLaMA or OPT with a linear of each kind, as a folder and in memory.
struct QuantizedModel {
  Json config;
  OwnedTensors tensors;
  GlobalWeights globals;
  std::vector<BlockWeights> blocks;
};

void add_tensors(const NamedTensors& named, OwnedTensors& out) {
  for (const TensorView& tensor : named.tensors)
    out.push_back({tensor.name, tensor.dtype, tensor.shape, Bytes(tensor.bytes.begin(), tensor.bytes.end())});
}

void quantize_block(BlockWeights& block, int64_t index, Random& random) {
  // With a 2:4 pattern of 0xE: positions 2 and 3; of 0x4: 0 and 1.
  block[Role::q] = quantized(block[Role::q], "int4:row", "int4:token:asym", 4, false, random);
  block[Role::k] = quantized(block[Role::k], "int4:g8", "f32", 0, false, random);
  block[Role::v] = quantized(block[Role::v], "int3:g5:asym", "int8:token:asym", 3, false, random);
  block[Role::o] = quantized(block[Role::o], "int4:row", "int4:token:asym", 4, true, random);
  block[Role::down] = quantized(block[Role::down], "int8:row", "int8:token:asym", 0, false, random);
  if (index == 0) return;
  block[Role::down] = quantized(block[Role::down], "fixed6:f-2", "e4m3", 0, false, random);
  block[Role::q] = quantized(block[Role::q], "int:g5:asym", "int4:token:asym", 4, false, random);
  block[Role::k] = quantized(block[Role::k], "code3:g5", "f32", 0, false, random);
  block[Role::v] = quantized(block[Role::v], "code:col", "bf16", 0, false, random);
  block[Role::up] = quantized(block[Role::up], "nvfp4:b8", "mxfp6:b8", 3, false, random);
  block[Role::up].rotation = 8;
  if (block[Role::gate].rows > 0)
    block[Role::gate] = quantized(block[Role::gate], "bfp6:b5", "mxfp6:b8", 3, false, random);
}

QuantizedModel quantized_model(Sample sample) {
  TemporaryFolder folder;
  write_model(folder.path(), sample.config, sample.tensors);
  auto source = open_model(folder.path());
  expect_ok(source);
  QuantizedModel model;
  model.globals = *(*source)->globals();
  Random random;
  Json linears = Json::object();
  add_tensors(global_tensors(model.globals), model.tensors);
  for (int64_t i = 0; i < (*source)->spec().layers; ++i) {
    BlockWeights block = *(*source)->block(i);
    quantize_block(block, i, random);
    for (Role role : kAllRoles)
      if (block[role].rows > 0 && block[role].format.has_codes())
        linears[linear_name(i, role)] = linear_entry(block[role]);
    add_tensors(block_tensors(block, i), model.tensors);
    model.blocks.push_back(std::move(block));
  }
  model.config = sample.config;
  model.config["quantization_config"] =
      quantization_config_for({{"name", "test"}}, (*source)->spec(), std::move(linears));
  return model;
}

void expect_same(const LinearWeight& a, const LinearWeight& b, const std::string& what) {
  SCOPED_TRACE(what);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.columns, b.columns);
  EXPECT_EQ(a.format, b.format);
  EXPECT_EQ(a.activations, b.activations);
  EXPECT_EQ(a.sparse24, b.sparse24);
  EXPECT_EQ(a.rotation, b.rotation);
  EXPECT_EQ(a.kept_columns, b.kept_columns);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.pattern, b.pattern);
  EXPECT_EQ(a.scales, b.scales);
  EXPECT_EQ(a.outer, b.outer);
  EXPECT_EQ(a.offsets, b.offsets);
  EXPECT_EQ(a.levels, b.levels);
  EXPECT_EQ(a.exponents, b.exponents);
  EXPECT_EQ(a.widths, b.widths);
  EXPECT_EQ(a.sparse.row_ends, b.sparse.row_ends);
  EXPECT_EQ(a.sparse.columns, b.sparse.columns);
  EXPECT_EQ(a.sparse.values, b.sparse.values);
  EXPECT_EQ(a.kept, b.kept);
  if (a.kept_count() > 0) {
    EXPECT_EQ(a.kept_levels, b.kept_levels);
  }
  EXPECT_EQ(a.bias, b.bias);
}

void expect_round_trip(const Sample& sample) {
  const QuantizedModel model = quantized_model(sample);
  TemporaryFolder folder;
  write_model(folder.path(), model.config, model.tensors);
  auto source = open_model(folder.path());
  expect_ok(source);
  ASSERT_NE((*source)->quantization(), nullptr);
  EXPECT_EQ((*(*source)->quantization())["recipe"]["name"], "test");
  auto globals = (*source)->globals();
  expect_ok(globals);
  expect_same(globals->embedding, model.globals.embedding, "embedding");
  ASSERT_EQ(globals->head.has_value(), model.globals.head.has_value());
  if (globals->head) expect_same(*globals->head, *model.globals.head, "head");
  ASSERT_EQ(globals->project_in.has_value(), model.globals.project_in.has_value());
  if (globals->project_in) expect_same(*globals->project_out, *model.globals.project_out, "project_out");
  EXPECT_EQ(globals->position_rows, model.globals.position_rows);
  EXPECT_EQ(globals->final_norm.gain, model.globals.final_norm.gain);
  EXPECT_EQ(globals->final_norm.bias, model.globals.final_norm.bias);
  for (int64_t i = 0; i < (*source)->spec().layers; ++i) {
    const BlockWeights& expected = model.blocks[static_cast<size_t>(i)];
    auto block = (*source)->block(i);
    expect_ok(block);
    for (Role role : kAllRoles) expect_same((*block)[role], expected[role], linear_name(i, role));
    EXPECT_EQ(block->attention_norm.gain, expected.attention_norm.gain);
    EXPECT_EQ(block->attention_norm.bias, expected.attention_norm.bias);
    EXPECT_EQ(block->mlp_norm.gain, expected.mlp_norm.gain);
  }
}

TEST(QuantizedFolder, RoundTripLlama) { expect_round_trip(testing::llama_sample()); }
TEST(QuantizedFolder, RoundTripOpt) { expect_round_trip(testing::opt_sample()); }
TEST(QuantizedFolder, RoundTripOpt350mLayout) { expect_round_trip(testing::opt_sample(true)); }
TEST(QuantizedFolder, RoundTripFalcon) {
  expect_round_trip(testing::falcon_sample(testing::FalconStyle::b7));
  expect_round_trip(testing::falcon_sample(testing::FalconStyle::b40));
  expect_round_trip(testing::falcon_sample(testing::FalconStyle::rw));
}

TEST(QuantizedFolder, StoredBytesAreWhatTheLinearSays) {
  const QuantizedModel model = quantized_model(testing::llama_sample());
  for (Role role : kAllRoles) {
    int64_t bytes = 0;
    for (const OwnedTensor& tensor : model.tensors)
      if (tensor.name.starts_with(linear_name(1, role) + ".")) bytes += static_cast<int64_t>(tensor.bytes.size());
    EXPECT_EQ(bytes, model.blocks[1][role].stored_bytes()) << name_of(role);
  }
}

TEST(QuantizedFolder, EntriesAndNames) {
  const QuantizedModel model = quantized_model(testing::llama_sample());
  const Json& linears = model.config["quantization_config"]["linears"];
  EXPECT_EQ(linears["blocks.0.q"], Json({{"weights", "int4:row"}, {"activations", "int4:token:asym"}, {"kept", 4}}));
  EXPECT_EQ(linears["blocks.0.k"], Json({{"weights", "int4:g8"}, {"activations", "f32"}}));
  EXPECT_EQ(linears["blocks.1.o"]["pattern"], "2:4");
  EXPECT_FALSE(linears.contains("blocks.0.up"));
  EXPECT_EQ(linears["blocks.1.up"]["hadamard"], 8);
  EXPECT_EQ(linears["blocks.1.k"], Json({{"weights", "code3:g5"}, {"activations", "f32"}}));
  EXPECT_EQ(linears["blocks.1.v"]["sparse"], 12);
  EXPECT_EQ(linears["blocks.1.q"], Json({{"weights", "int:g5:asym"},
                                         {"activations", "int4:token:asym"},
                                         {"kept", 4},
                                         {"row_bits", 5 * (8 + 7 + 6 + 5)}}));
  EXPECT_EQ(quantization_config_for({}, Spec(), {{"blocks.0.q", linears["blocks.1.q"]}})["format_version"], 4);
  // Programs that know no learned levels, or no rotation, refuse the folder by its version.
  EXPECT_EQ(model.config["quantization_config"]["format_version"], 4);
  EXPECT_EQ(quantization_config_for({}, Spec(), {{"blocks.0.q", linears["blocks.1.up"]}})["format_version"], 2);
  EXPECT_EQ(quantized_model(testing::opt_sample()).config["quantization_config"]["format_version"], 1);
  const auto find = [&](const char* name) {
    for (const OwnedTensor& tensor : model.tensors)
      if (tensor.name == name) return tensor;
    ADD_FAILURE() << name;
    return OwnedTensor();
  };
  EXPECT_EQ(find("blocks.0.q.codes").shape, (std::vector<int64_t>{24, 10}));
  EXPECT_EQ(find("blocks.0.q.kept_columns").dtype, DType::i32);
  EXPECT_EQ(find("blocks.1.k.levels").dtype, DType::i8);
  EXPECT_EQ(find("blocks.1.k.levels").shape, (std::vector<int64_t>{12 * 5 * 8}));
  EXPECT_EQ(find("blocks.1.v.widths").shape, (std::vector<int64_t>{24}));
  EXPECT_EQ(find("blocks.1.q.widths").shape, (std::vector<int64_t>{4}));
  EXPECT_EQ(find("blocks.1.v.sparse_columns").dtype, DType::u16);
  EXPECT_EQ(find("blocks.0.k.scales").dtype, DType::f16);
  EXPECT_EQ(find("blocks.0.k.scales").shape, (std::vector<int64_t>{12, 3}));
  EXPECT_EQ(find("blocks.0.o.codes").shape, (std::vector<int64_t>{24, 5}));
  EXPECT_EQ(find("blocks.0.o.pattern").shape, (std::vector<int64_t>{24, 3}));
  EXPECT_EQ(find("blocks.0.up.weight").shape, (std::vector<int64_t>{20, 24}));
  EXPECT_EQ(find("final_norm.gain").dtype, DType::f32);
}

TEST(QuantizedFolder, PositionsInTheNarrowestExactType) {
  Sample sample = testing::opt_sample();
  const auto stored_type = [&] {
    GlobalWeights globals;
    TemporaryFolder folder;
    write_model(folder.path(), sample.config, sample.tensors);
    globals = *(*open_model(folder.path()))->globals();
    const NamedTensors named = global_tensors(globals);
    for (const TensorView& tensor : named.tensors)
      if (tensor.name == "positions.weight") return tensor.dtype;
    return DType::u8;
  };
  OwnedTensor& positions = testing::find_in(sample.tensors, "model.decoder.embed_positions.weight");
  const auto fill = [&](float value) {
    positions =
        testing::tensor_of(positions.name, positions.shape, [value](int64_t i) { return i == 5 ? value : -0.0f; });
  };
  fill(1.0009765625f);
  EXPECT_EQ(stored_type(), DType::f16);
  fill(1e30f);
  fill(f16_to_f32(1) / 1024);
  EXPECT_EQ(stored_type(), DType::bf16);
  fill(1.00048828125f);
  EXPECT_EQ(stored_type(), DType::f32);
}

TEST(QuantizedFolder, ShardNames) {
  EXPECT_EQ(shard_name(0, 1), "model.safetensors");
  EXPECT_EQ(shard_name(1, 7), "model-00002-of-00007.safetensors");
}

// --- Folders that must be refused -----------------------------------------------------------------------------

struct BadFolder {
  const char* name;
  std::function<void(QuantizedModel&)> spoil;
  ErrorCode code;
  std::vector<const char*> fragments;
};

Json& quantization(QuantizedModel& model) { return model.config["quantization_config"]; }

std::function<void(QuantizedModel&)> entry(const char* linear, const char* key, Json value) {
  return [=](QuantizedModel& model) { quantization(model)["linears"][linear][key] = value; };
}
OwnedTensor& tensor_in(QuantizedModel& model, const char* name) { return testing::find_in(model.tensors, name); }

template <class T>
std::function<void(QuantizedModel&)> overwrite(const char* name, size_t at, T value) {
  return [=](QuantizedModel& model) {
    std::memcpy(tensor_in(model, name).bytes.data() + at * sizeof(T), &value, sizeof(T));
  };
}

Status read_all(const std::filesystem::path& folder) {
  NIBBLE_TRY(auto source, open_model(folder));
  NIBBLE_DO(source->globals());
  for (int64_t i = 0; i < source->spec().layers; ++i) NIBBLE_DO(source->block(i));
  return {};
}

TEST(QuantizedFolder, RefusesBadFolders) {
  const ErrorCode corrupt = ErrorCode::corrupt, unsupported = ErrorCode::unsupported;
  const float infinity = std::numeric_limits<float>::infinity();
  const BadFolder rows[] = {
      {"newer version", [](auto& m) { quantization(m)["format_version"] = 5; }, unsupported, {"format_version", "5"}},
      {"version 3 with learned levels",
       [](auto& m) { quantization(m)["format_version"] = 3; },
       unsupported,
       {"format_version", "from version 4 on"}},
      {"version 0", [](auto& m) { quantization(m)["format_version"] = 0; }, corrupt, {"format_version"}},
      {"no version", [](auto& m) { quantization(m).erase("format_version"); }, corrupt, {"format_version"}},
      {"other widths", overwrite<uint8_t>("blocks.1.v.widths", 0, 9), corrupt, {"blocks.1.v", "widths make"}},
      {"other bits of a group",
       overwrite<uint8_t>("blocks.1.q.widths", 1, 6),
       corrupt,
       {"blocks.1.q", "make 125 bits"}},
      {"levels of integers", entry("blocks.1.q", "levels", 3), corrupt, {"blocks.1.q", "levels"}},
      {"sparse columns out of order",
       overwrite<uint16_t>("blocks.1.v.sparse_columns", 3, 24),
       corrupt,
       {"blocks.1.v", "sparse column 24 of row 3"}},
      {"a sparse part beside integers",
       entry("blocks.0.q", "sparse", 3),
       unsupported,
       {"blocks.0.q", "beside int4:row; supported beside learned levels"}},
      {"no spec", [](auto& m) { quantization(m).erase("spec"); }, corrupt, {"spec"}},
      {"no recipe", [](auto& m) { quantization(m).erase("recipe"); }, corrupt, {"recipe"}},
      {"no linears", [](auto& m) { quantization(m).erase("linears"); }, corrupt, {"linears"}},
      {"attention of half the blocks",
       [](auto& m) {
         quantization(m)["attention"] = {{{"q", "f32"}, {"k", "f32"}, {"p", "f32"}, {"v", "f32"}}};
       },
       corrupt,
       {"\"attention\" has 1 entries for 2 blocks"}},
      {"attention without p",
       [](auto& m) {
         quantization(m)["attention"] = {{"q", "f32"}, {"k", "f32"}, {"v", "f32"}};
       },
       corrupt,
       {"attention", "\"p\" is missing"}},
      {"attention in a format that it cannot be in",
       [](auto& m) {
         quantization(m)["attention"] = {{"q", "f32"}, {"k", "f32"}, {"p", "fixed8:f7"}, {"v", "f32"}};
       },
       corrupt,
       {"attention", "cannot represent 1"}},
      {"unknown key", [](auto& m) { quantization(m)["rotation"] = true; }, corrupt, {"rotation"}},
      {"bad spec", [](auto& m) { quantization(m)["spec"]["hidden"] = -1; }, corrupt, {"spec", "hidden"}},
      {"unknown family",
       [](auto& m) { quantization(m)["spec"]["family"] = "x\x1b[31m"; },
       unsupported,
       {"family", "\\u001b", "falcon"}},
      {"wider spec", [](auto& m) { quantization(m)["spec"]["ffn"] = 22; }, corrupt, {"[20, 24]", "[22, 24]"}},
      {"deeper spec", [](auto& m) { quantization(m)["spec"]["layers"] = 3; }, corrupt, {"blocks.2", "missing"}},
      {"shallower spec", [](auto& m) { quantization(m)["spec"]["layers"] = 1; }, corrupt, {"blocks.1.", "no linear"}},
      {"spec with a bias", [](auto& m) { quantization(m)["spec"]["bias"] = {"up"}; }, corrupt, {"blocks.0.up.bias"}},
      {"unknown linear", entry("blocks.0.fc1", "weights", "int4:row"), corrupt, {"blocks.0.fc1"}},
      {"unknown linear 2",
       [](auto& m) { quantization(m)["linears"]["blocks.2.q"] = quantization(m)["linears"]["blocks.1.q"]; },
       corrupt,
       {"blocks.2.q", "no linear"}},
      {"unknown format", entry("blocks.0.q", "weights", "nf4:row"), unsupported, {"blocks.0.q", "nf4"}},
      {"format not text", entry("blocks.0.q", "weights", 4), corrupt, {"weights"}},
      {"weights per token", entry("blocks.0.q", "weights", "int4:token"), unsupported, {"int4:token"}},
      {"float weights, integer inputs", entry("blocks.0.q", "weights", "f16"), unsupported, {"activations"}},
      {"unknown entry key", entry("blocks.0.q", "order", "act"), corrupt, {"blocks.0.q", "order"}},
      {"activations in half floats",
       entry("blocks.0.q", "activations", "f16"),
       unsupported,
       {"blocks.0.q", "f16", "per token"}},
      {"activations in groups",
       entry("blocks.0.q", "activations", "int8:g8"),
       unsupported,
       {"blocks.0.q", "int8:g8", "per token"}},
      {"unknown pattern", entry("blocks.0.o", "pattern", "1:4"), unsupported, {"1:4"}},
      {"pattern that does not divide", entry("blocks.0.o", "kept", 3), corrupt, {"blocks.0.o", "21"}},
      {"no rotation", entry("blocks.1.up", "hadamard", 0), corrupt, {"blocks.1.up", "hadamard"}},
      {"rotation of no power of two", entry("blocks.1.up", "hadamard", 12), unsupported, {"blocks.1.up", "12"}},
      {"rotation not a number", entry("blocks.1.up", "hadamard", "8"), corrupt, {"hadamard"}},
      {"rotation wider than the layer", entry("blocks.1.up", "hadamard", 32), corrupt, {"blocks.1.up", "32 of 24"}},
      {"enormous rotation", entry("blocks.1.up", "hadamard", int64_t{1} << 40), corrupt, {"hadamard"}},
      {"kept negative", entry("blocks.0.q", "kept", -1), corrupt, {"kept", "-1"}},
      {"kept more than there are", entry("blocks.0.q", "kept", 25), corrupt, {"blocks.0.q", "25 of 24"}},
      {"kept other than stored", entry("blocks.0.q", "kept", 5), corrupt, {"blocks.0.q.kept", "[24, 4]", "[24, 5]"}},
      {"other bits", entry("blocks.0.down", "weights", "int4:row"), corrupt, {"blocks.0.down.codes"}},
      {"other groups", entry("blocks.0.k", "weights", "int4:g12"), corrupt, {"blocks.0.k.scales", "[12, 3]"}},
      {"scales of another type", entry("blocks.0.k", "weights", "int4:row"), corrupt, {"scales", "F16", "F32"}},
      {"entry removed",
       [](auto& m) { quantization(m)["linears"].erase("blocks.0.q"); },
       corrupt,
       {"blocks.0.q.weight", "missing"}},
      {"tensor removed",
       [](auto& m) { std::erase_if(m.tensors, [](auto& t) { return t.name == "blocks.0.v.offsets"; }); },
       corrupt,
       {"blocks.0.v.offsets", "missing"}},
      {"tensor too many",
       [](auto& m) { m.tensors.push_back(testing::scattered("blocks.0.q.zeros", {1})); },
       corrupt,
       {"blocks.0.q.zeros", "does not belong"}},
      {"codes of another type",
       [](auto& m) { tensor_in(m, "blocks.0.q.codes").dtype = DType::i8; },
       corrupt,
       {"blocks.0.q.codes", "I8", "U8"}},
      {"float weights of another type",
       [](auto& m) { tensor_in(m, "blocks.0.up.weight").dtype = DType::i32; },
       unsupported,
       {"blocks.0.up.weight", "I32"}},
      {"kept column out of range",
       overwrite<int32_t>("blocks.0.q.kept_columns", 3, 24),
       corrupt,
       {"blocks.0.q", "kept column 24"}},
      {"kept column negative", overwrite<int32_t>("blocks.0.q.kept_columns", 0, -1), corrupt, {"kept column -1"}},
      {"kept columns twice", overwrite<int32_t>("blocks.0.q.kept_columns", 1, 1), corrupt, {"kept column 1"}},
      {"kept NaN", overwrite<uint16_t>("blocks.0.q.kept", 2, 0x7E00), corrupt, {"blocks.0.q.kept", "nan"}},
      {"scale infinite", overwrite<float>("blocks.0.q.scales", 2, infinity), corrupt, {"blocks.0.q.scales"}},
      {"scale zero", overwrite<float>("blocks.0.q.scales", 2, 0.0f), corrupt, {"blocks.0.q", "scale 2"}},
      {"offset too large", overwrite<uint8_t>("blocks.0.v.offsets", 4, 8), corrupt, {"blocks.0.v", "offset 4", "8"}},
      {"pattern not ascending", overwrite<uint8_t>("blocks.0.o.pattern", 0, 0x11), corrupt, {"blocks.0.o", "pattern"}},
      {"norm infinite", overwrite<float>("blocks.0.mlp_norm.gain", 0, infinity), corrupt, {"blocks.0.mlp_norm.gain"}},
      {"float weight infinite", overwrite<float>("blocks.0.up.weight", 7, infinity), corrupt, {"blocks.0.up.weight"}},
      {"embedding infinite", overwrite<float>("embedding.weight", 7, -infinity), corrupt, {"embedding.weight"}},
  };
  const QuantizedModel good = quantized_model(testing::llama_sample());
  for (const BadFolder& row : rows) {
    SCOPED_TRACE(row.name);
    QuantizedModel model = good;
    row.spoil(model);
    TemporaryFolder folder;
    write_model(folder.path(), model.config, model.tensors);
    const Status status = read_all(folder.path());
    expect_error(status, row.code, "");
    for (const char* fragment : row.fragments) expect_error(status, row.code, fragment);
  }
}

TEST(QuantizedFolder, QuantizedHead) {
  // Any linear may have an entry, the globals too.
  QuantizedModel model = quantized_model(testing::llama_sample());
  Random random;
  const LinearWeight head = quantized(*model.globals.head, "int8:row", "int8:token:asym", 2, false, random);
  std::erase_if(model.tensors, [](const OwnedTensor& t) { return t.name == "head.weight"; });
  GlobalWeights only;
  only.head = head;
  add_tensors(global_tensors(only), model.tensors);
  quantization(model)["linears"]["head"] = linear_entry(head);
  TemporaryFolder folder;
  write_model(folder.path(), model.config, model.tensors);
  auto source = open_model(folder.path());
  expect_ok(source);
  auto globals = (*source)->globals();
  expect_ok(globals);
  expect_same(*globals->head, head, "head");
}

TEST(Companions, CopiedUnchanged) {
  TemporaryFolder from, to;
  testing::put(from / "tokenizer.json", std::string("{\"x\": \"\0\"}", 9));
  testing::put(from / "merges.txt", "a b\r\n");
  testing::put(from / "config.json", "{}");
  testing::put(from / "notes.txt", "private");
  expect_ok(copy_companions(from.path(), to.path()));
  EXPECT_EQ(testing::get(to / "tokenizer.json"), testing::get(from / "tokenizer.json"));
  EXPECT_EQ(testing::get(to / "merges.txt"), "a b\r\n");
  EXPECT_EQ(testing::entries_in(to.path()), 2);
}

}  // namespace
}  // namespace nibble
