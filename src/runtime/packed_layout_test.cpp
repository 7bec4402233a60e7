// Images of packed layers are stored (runtime/packed_cache.h), so a changed layout needs another version.
#include <cmath>
#include <set>

#include "core/hash.h"
#include "kernels/linear.h"
#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

// Numbers that no mathematical library has a part in, which might round otherwise elsewhere.
float plain_number(Random& random) { return static_cast<float>(random.below(256)) / 64 - 2; }

void fill_blocks(Random& random, LinearWeight& weight) {
  const RowSizes sizes = row_sizes(weight.format, weight.dense_columns(), false);
  weight.codes.resize(static_cast<size_t>(weight.rows * sizes.codes));
  const Grid grid = block_grid(weight.format, 1, 1);
  for (std::byte& byte : std::span(weight.codes)) do
      byte = static_cast<std::byte>(random.below(256));
    while (weight.format.bits == 8 && !std::isfinite(grid.decode(std::to_integer<int32_t>(byte))));
  for (int64_t i = 0; i < weight.rows * sizes.groups; ++i)
    weight.scales.push_back(scale_of_byte(static_cast<uint8_t>(100 + random.below(20)), weight.format.scale));
}

void fill_floats(Random& random, LinearWeight& weight) {
  for (int64_t i = 0; i < weight.rows * weight.dense_columns(); ++i) {
    const float value = plain_number(random);
    const uint16_t half = weight.format.levels == Levels::f16 ? f32_to_f16(value) : f32_to_bf16(value);
    weight.codes.append(weight.format.bits == 32 ? std::as_bytes(std::span(&value, 1))
                                                 : std::as_bytes(std::span(&half, 1)));
  }
}

LinearWeight fixed_layer(const LayerShape& shape) {
  Random random(7);
  LinearWeight weight;
  weight.rows = shape.rows;
  weight.columns = shape.columns;
  weight.format = format_of(shape.format);
  weight.activations = format_of(shape.activations);
  weight.sparse24 = shape.sparse24;
  weight.kept_columns = some_columns(random, shape.columns, shape.kept);
  weight.kept_levels = shape.kept_levels;
  if (weight.format.is_integer()) {
    fill_codes(random, shape, weight);
  } else if (weight.format.is_learned()) {
    fill_learned(random, shape, weight);
  } else if (weight.format.is_block()) {
    fill_blocks(random, weight);
  } else {
    fill_floats(random, weight);
  }
  if (shape.sparse24) fill_pattern(random, weight);
  for (float& value : weight.sparse.values) value = plain_number(random);
  for (int64_t i = 0; i < shape.rows * shape.kept; ++i)  // any bits
    weight.kept.push_back(static_cast<uint16_t>(static_cast<int32_t>(plain_number(random))));
  for (int64_t n = 0; shape.bias && n < shape.rows; ++n) weight.bias.push_back(plain_number(random));
  return weight;
}

// `type` of the image that an instruction set's kernels read, and the XXH3 of its bytes.
struct Case {
  PackedType type;
  const char *format, *activations;
  Isa isa;
  uint64_t hash;
  int64_t columns = 100;
  bool sparse24 = false, sparse_part = false;
};

// Of this version.
constexpr int kVersion = 6;
const Case kCases[] = {
    {PackedType::int4, "int4:row", "int8:token:asym", Isa::portable, 0xf2ddda8a43608ffc},
    {PackedType::int4, "int4:g32:asym", "f32", Isa::portable, 0xebbd552ee4aae514},
    {PackedType::int4, "int3:row", "f32", Isa::portable, 0xa256ab23760c2753, 108, true},
    {PackedType::int8, "int8:row", "int8:token", Isa::portable, 0xe90b9c48c27a53c9, 200},
    {PackedType::int8, "int8:g32:asym", "f32", Isa::portable, 0x1f6466f75b836f0e},
    {PackedType::int8, "int8:row:asym", "f32", Isa::portable, 0x48456aef65d8c081, 200},
    {PackedType::int4, "int:g32:asym", "int8:token", Isa::portable, 0x76a9dd659eebf17a},
    {PackedType::int8, "int:g32:asym", "int8:token", Isa::portable, 0x446e108d0cc23c56, 104},
    {PackedType::int8, "code3:g40", "int8:token", Isa::portable, 0x27437c7155806a52},
    {PackedType::f32, "f32", "f32", Isa::portable, 0xe890248e8ac8107b},
    {PackedType::f16, "f16", "f32", Isa::portable, 0x8158008086029184},
    {PackedType::bf16, "bf16", "f32", Isa::portable, 0x2c57eb4e53d191f6},
    {PackedType::bf16_pairs, "bf16", "bf16", Isa::portable, 0x9779a56dceac37de},
    {PackedType::bf16_tiles, "bf16", "bf16", Isa::amx, 0x47bd8e4d0cc300c1},
    {PackedType::blocks4, "bfp4:b16", "bfp8:b16", Isa::portable, 0x075c0744c072943f},
    {PackedType::blocks4, "mxfp4", "mxint8", Isa::portable, 0x39945d2bb174bd60},
    {PackedType::blocks4, "nvfp4", "bfp8:b16", Isa::portable, 0x6ef2aaf93d41eb35},
    {PackedType::blocks5, "bfp5:b16", "bfp8:b16", Isa::portable, 0x7d4a9ba399ce9ad2},
    {PackedType::blocks6, "mxfp6", "mxint8", Isa::portable, 0x0b8de96089fb8284},
    {PackedType::blocks8, "bfp8:b16", "bfp8:b16", Isa::portable, 0x608e520d3881cde6},
    {PackedType::coded, "code2:row", "f32", Isa::portable, 0xf124f1670defe669, 100, false, true},
    {PackedType::coded, "code3:g64", "f32", Isa::portable, 0xd789202eac731343},
    {PackedType::coded, "code2:col", "f32", Isa::portable, 0x8bd8a009184eda9e},
    {PackedType::coded, "code3:col", "f32", Isa::portable, 0x541ca29130117022},
    {PackedType::coded, "code:col", "f32", Isa::portable, 0xc83ce72b0f15b8b3, 200, false, true},
    {PackedType::coded, "mxfp4", "f32", Isa::portable, 0x7353487c3b734453},
    {PackedType::coded, "nvfp4", "f32", Isa::portable, 0xf90d1e544f25b35d},
    {PackedType::coded, "bfp5", "f32", Isa::portable, 0x586b6959565b36ee},
    {PackedType::coded, "mxfp6", "f32", Isa::portable, 0xb04ff3cd7b78fbb2},
    {PackedType::coded, "bfp8", "f32", Isa::portable, 0x8be137436ba34ae2},
    {PackedType::coded, "mxfp8", "f32", Isa::portable, 0xcf0e918c504ec00d},
    {PackedType::coded_pairs, "code4:row", "bf16", Isa::portable, 0x58ff4da666e1a203},
    {PackedType::coded_tiles, "code4:col", "bf16", Isa::amx, 0xf736e8d248b2331d},
    {PackedType::coded_integers, "code2:g32", "int8:token", Isa::portable, 0x7f795b0a288fcc19},
    {PackedType::coded_integers, "code3:row", "int8:token", Isa::portable, 0x810a3947a4b1262b, 200, false, true},
    {PackedType::coded_integers, "code4:col", "int8:token", Isa::portable, 0x1c9fb61149c0d626},
    {PackedType::coded_integers, "code:col", "int8:token", Isa::portable, 0x0887c3cd36816647, 200},
};

TEST(PackedLayout, HasTheVersionOfItsBytes) {
  ThreadPool pool(2);
  std::set<PackedType> types;
  EXPECT_EQ(PackedLinear::kLayoutVersion, kVersion) << "store the version here, and with it the hashes that are new";
  for (const Case& of : kCases) {
    const Levels kept_levels = of.activations == std::string_view("bf16") ? Levels::bf16 : Levels::f16;
    const LinearWeight weight = fixed_layer({.rows = 40,
                                             .columns = of.columns,
                                             .kept = 4,
                                             .format = of.format,
                                             .activations = of.activations,
                                             .bias = true,
                                             .sparse24 = of.sparse24,
                                             .sparse_part = of.sparse_part,
                                             .kept_levels = kept_levels});
    const auto packed = PackedLinear::pack(weight, of.isa, pool);
    ASSERT_TRUE(packed) << of.format << ": " << packed.error().message;
    const PackedType type = packed->arguments({}, nullptr, 0).dense.type;
    EXPECT_EQ(static_cast<int>(type), static_cast<int>(of.type)) << of.format << " with input in " << of.activations;
    types.insert(type);
    EXPECT_EQ(xxh3(packed->image()), of.hash)
        << of.format << " with input in " << of.activations
        << ": the layout changed, or this test's layers did. Raise PackedLinear::kLayoutVersion, or packed caches that "
        << "are there will be misread, and store the new hash here: " << fmt::format("{:#018x}", xxh3(packed->image()));
  }
  EXPECT_EQ(types.size(), static_cast<size_t>(PackedType::coded_integers) + 1) << "a layout that no case has";
}

}  // namespace
}  // namespace nibble
