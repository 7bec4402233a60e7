// Layers in block formats: the rounding of their input on every instruction set, and whole layers against sums in
// double of what the formats' definitions say.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "format/block_scale.h"
#include "kernels/linear.h"
#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

// Everything that a layer's input can be rounded to, in unusual block sizes too.
std::vector<std::string> activation_formats() {
  std::vector<std::string> names;
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) {
    const NumberFormat format = format_of(row->name);
    if (!format.is_block()) continue;
    const std::string name(row->name);
    if (format.is_profiled()) {
      names.push_back(name + ":f3");
    } else {
      names.push_back(name);
      if (row->block > 0)
        for (const char* sharing : {":b7", ":b40", ":token"}) names.push_back(name + sharing);
    }
  }
  for (const char* rule : {"floor", "ceil", "up", "even", "nearest"}) names.push_back(std::string("mxfp4:b32:") + rule);
  for (const char* name : {"bfp6:b16:paper", "e2m1:f126", "e2m1:f-126", "fixed8:f126", "fp8e5m2:f120"})
    names.push_back(name);
  return names;
}

std::vector<uint16_t> rounded(const NumberFormat& format, const std::vector<float>& x, Isa isa) {
  ThreadPool pool(1);
  InputPlan plan;
  plan.activations = format;
  plan.columns = static_cast<int64_t>(x.size());
  PreparedInput out;
  prepare(plan, x.data(), plan.columns, 1, isa, out, pool);
  return {out.halves.data(), out.halves.data() + x.size()};
}

TEST(BlockInput, EveryIsaRoundsAsTheFormatSays) {
  Random random(21);
  for (const std::string& name : activation_formats()) {
    const NumberFormat format = format_of(name);
    for (size_t columns : {1u, 15u, 16u, 33u, 96u, 131u})
      for (int kind = 0; kind < kValueKinds; ++kind) {
        auto x = random_rows(random, 1, static_cast<int64_t>(columns), static_cast<Values>(kind));
        if (kind == 0)  // ties
          for (float& value : x) value = std::nearbyint(value * 16) / 32;
        std::vector<float> expected(columns);
        round_row(x, format, expected);
        const auto reference = rounded(format, x, Isa::portable);
        for (size_t i = 0; i < columns; ++i)
          ASSERT_TRUE(bf16_to_f32(reference[i]) == expected[i] ||
                      (std::isnan(expected[i]) && std::isnan(bf16_to_f32(reference[i]))) ||
                      std::abs(expected[i]) < 0x1p-125f || std::abs(expected[i]) > 0x1p126f)
              << name << " " << x[i] << " gave " << bf16_to_f32(reference[i]) << ", expected " << expected[i];
        for (Isa isa : machine_isas()) ASSERT_EQ(rounded(format, x, isa), reference) << name << " " << to_string(isa);
      }
  }
}

// Formats whose blocks are integers, and blocks of any number of chunks.
std::vector<std::string> integer_formats() {
  std::vector<std::string> names;
  for (const char* name : {"bfp2", "bfp3", "bfp4", "bfp5", "bfp6", "bfp7", "bfp8", "bm4", "bm6e2", "bl4", "mxfp6",
                           "mxfp4", "mxint8", "nvfp4"})
    for (const char* sharing : {"", ":b16", ":b32", ":b48", ":b256"}) names.push_back(std::string(name) + sharing);
  for (const char* name : {"mxfp4:b32:floor", "mxfp4:b64:nearest", "bfp6:b16:paper", "mxfp6:b32:up", "bfp4:b16:ceil"})
    names.push_back(name);
  return names;
}

struct Records {
  std::vector<uint8_t> bytes;
  float scale;
};

Records encoded(const NumberFormat& format, const std::vector<float>& x, Isa isa) {
  ThreadPool pool(1);
  InputPlan plan;
  plan.activations = format;
  plan.columns = static_cast<int64_t>(x.size());
  plan.group_size = format.group;
  plan.groups = format.groups(plan.columns);
  plan.group_stride = format.group + static_cast<int64_t>(sizeof(BlockTail));
  PreparedInput out;
  prepare(plan, x.data(), plan.columns, 1, isa, out, pool);
  return {{out.codes.data(), out.codes.data() + plan.groups * plan.group_stride}, out.scales.data()[0]};
}

// What record says of value i; checks its sum.
float value_of(const Records& records, int64_t block, int64_t i) {
  const uint8_t* record = records.bytes.data() + i / block * (block + static_cast<int64_t>(sizeof(BlockTail)));
  BlockTail tail;
  std::memcpy(&tail, record + block, sizeof tail);
  int32_t sum = 0;
  for (int64_t k = 0; k < block; ++k) sum += static_cast<int8_t>(record[k]);
  EXPECT_EQ(tail.start, 0x4B400000 - 128 * sum);
  EXPECT_EQ(tail.scaled_start, 12582912 * tail.scale);
  return records.scale * (tail.scale * static_cast<float>(static_cast<int8_t>(record[i % block])));
}

TEST(BlockInput, RecordsAreWhatTheFormatSays) {
  Random random(25);
  for (const std::string& name : integer_formats()) {
    const NumberFormat format = format_of(name);
    for (size_t columns : {1u, 16u, 33u, 131u, 515u})
      for (int kind = 0; kind < kValueKinds; ++kind) {
        auto x = random_rows(random, 1, static_cast<int64_t>(columns), static_cast<Values>(kind));
        if (kind == 0)  // ties
          for (float& value : x) value = std::nearbyint(value * 16) / 32;
        if (kind == 1)  // scales far apart
          for (size_t i = 0; i < columns; i += 20) x[i] = std::ldexp(x[i], static_cast<int>(random.below(250)) - 125);
        std::vector<float> expected(columns);
        round_row(x, format, expected);
        const bool no_number = std::any_of(x.begin(), x.end(), [](float value) { return !std::isfinite(value); });
        float most = 0;
        for (float value : x) most = std::max(most, std::fabs(value));
        const Records reference = encoded(format, x, Isa::portable);
        for (size_t i = 0; i < columns; ++i) {
          const float found = value_of(reference, format.group, static_cast<int64_t>(i));
          if (no_number) {
            ASSERT_TRUE(std::isnan(found)) << name;
          } else if (std::abs(expected[i]) >= 0x1p-120f && std::abs(expected[i]) > most * 0x1p-110f) {
            ASSERT_EQ(found, expected[i]) << name << " " << x[i];
          } else {
            ASSERT_LE(std::abs(found), std::max(0x1p-119f, most * 0x1p-109f)) << name << " " << x[i];
          }
        }
        for (Isa isa : machine_isas()) {
          const Records records = encoded(format, x, isa);
          ASSERT_EQ(records.bytes, reference.bytes) << name << " " << to_string(isa) << " " << columns << " " << kind;
          ASSERT_TRUE(same(records.scale, reference.scale)) << name << " " << to_string(isa);
        }
      }
  }
}

// The input as the layer multiplies it: kept columns as they are, the others rounded.
std::vector<float> effective_input(const LinearWeight& weight, std::span<const float> x) {
  const std::vector<int32_t> columns = dense_columns_of(weight.columns, weight.kept_columns);
  std::vector<float> dense, out(x.begin(), x.end());
  for (int32_t column : columns) dense.push_back(x[static_cast<size_t>(column)]);
  if (weight.activations.is_block()) round_row(dense, weight.activations, dense);
  for (size_t i = 0; i < columns.size(); ++i) out[static_cast<size_t>(columns[i])] = dense[i];
  return out;
}

// A layer whose input is rotated gives W x where nothing is rounded, and what it packs to is still W.
TEST(BlockLinear, ARotationDoesNotChangeWhatIsNotRounded) {
  Random random(29);
  ThreadPool pool(2);
  constexpr int64_t kRows = 19, kColumns = 100;
  for (const auto& [weights, rotation] : {std::pair("nvfp4", 16), std::pair("mxfp4", 32), std::pair("int4:g20", 64)})
    for (int64_t kept : {0, 7})
      for (int64_t m : {1, 40}) {
        const LayerShape shape{
            .rows = kRows, .columns = kColumns, .kept = kept, .format = weights, .activations = "f32", .bias = true};
        LinearWeight weight = format_of(weights).is_block() ? block_layer(random, shape) : random_layer(random, shape);
        weight.rotation = rotation;
        ASSERT_TRUE(weight.validate("layer"));
        const auto x = random_rows(random, m, kColumns, Values::normal);
        for (Isa isa : machine_isas()) {
          const PackedLinear packed = PackedLinear::pack(weight, isa, pool).value();
          EXPECT_EQ(packed.shape().rotation, rotation);
          PreparedInput input;
          prepare(packed.plan(), x.data(), kColumns, m, isa, input, pool);
          std::vector<float> y(static_cast<size_t>(m * kRows)), row(kColumns), stored(kColumns);
          linear(packed, input, y.data(), kRows, pool);
          for (int64_t n = 0; n < kRows; ++n) {
            decode_row(weight, n, row);
            decode_stored(weight, n, stored);
            ASSERT_NE(row, stored);
            packed.read_row(n, stored);
            for (size_t k = 0; k < kColumns; ++k) ASSERT_NEAR(row[k], stored[k], 1e-5) << weights;
            for (int64_t i = 0; i < m; ++i) {
              double sum = static_cast<double>(weight.bias[static_cast<size_t>(n)]), size = std::abs(sum);
              for (size_t k = 0; k < kColumns; ++k) {
                const double product =
                    static_cast<double>(x[static_cast<size_t>(i) * kColumns + k]) * static_cast<double>(row[k]);
                sum += product;
                size += std::abs(product);
              }
              ASSERT_NEAR(y[static_cast<size_t>(i * kRows + n)], sum, 2e-6 * size)
                  << weights << " " << to_string(isa) << " kept " << kept << " m " << m;
            }
          }
        }
      }
}

TEST(BlockLinear, EqualsSumsOfWhatTheFormatsSay) {
  Random random(22);
  ThreadPool pool(2);
  for (const auto& [weights, activations] :
       {std::pair("bfp4", "bfp4"), std::pair("bfp6", "bfp6"), std::pair("bfp8:b12", "bfp6:b24"),
        std::pair("mxfp4", "mxfp8"), std::pair("nvfp4", "nvfp4"), std::pair("nvfp4:4over6", "f32"),
        std::pair("mxfp6", "f32"), std::pair("fixed8:f6", "fixed8:f4"), std::pair("e4m3", "e4m3"),
        std::pair("bl8", "bl8"), std::pair("bm6", "bm6"), std::pair("mxint8", "mxint8"), std::pair("dmf8", "dmf8"),
        std::pair("bfp3:row", "bfp8:token")})
    for (int64_t kept : {0, 3})
      for (int64_t m : {1, 5, 34}) {
        const LayerShape shape{
            .rows = 37, .columns = 100, .kept = kept, .format = weights, .activations = activations, .bias = m != 5};
        const LinearWeight weight = block_layer(random, shape);
        const auto x = random_rows(random, m, shape.columns, Values::outliers);
        for (Isa isa : machine_isas()) {
          const PackedLinear packed = PackedLinear::pack(weight, isa, pool).value();
          PreparedInput input;
          prepare(packed.plan(), x.data(), shape.columns, m, isa, input, pool);
          std::vector<float> y(static_cast<size_t>(m * shape.rows), NAN), row(static_cast<size_t>(shape.columns));
          linear(packed, input, y.data(), shape.rows, pool);
          for (int64_t i = 0; i < m; ++i) {
            const auto seen =
                effective_input(weight, std::span(x).subspan(static_cast<size_t>(i * shape.columns), row.size()));
            for (int64_t n = 0; n < shape.rows; ++n) {
              decode_row(weight, n, row);
              double sum = weight.bias.empty() ? 0.0 : static_cast<double>(weight.bias[static_cast<size_t>(n)]),
                     size = std::abs(sum);
              for (size_t k = 0; k < row.size(); ++k) {
                sum += static_cast<double>(seen[k]) * static_cast<double>(row[k]);
                size += std::abs(static_cast<double>(seen[k]) * static_cast<double>(row[k]));
              }
              ASSERT_NEAR(y[static_cast<size_t>(i * shape.rows + n)], sum, 1e-6 * size + 1e-30)
                  << weights << " " << activations << " " << to_string(isa) << " m " << m;
            }
          }
        }
      }
}

// Every code and every scale.
LinearWeight hostile_layer(Random& random, const LayerShape& shape) {
  LinearWeight weight = block_layer(random, shape);
  for (std::byte& byte : std::span(weight.codes)) byte = static_cast<std::byte>(random.below(256));
  for (float& scale : weight.scales) {
    const bool e4m3 = weight.format.scale == ScaleCodec::e4m3;
    scale = scale_of_byte(static_cast<uint8_t>(random.below(e4m3 ? 127 : 240)), weight.format.scale);
    if (scale == 0) scale = 1;
  }
  return weight;
}

TEST(BlockLinear, EveryRowGivesTheBitsOfTheReference) {
  Random random(26);
  ThreadPool pool(1);
  const LayerShape shapes[] = {{.rows = 1, .columns = 5},
                               {.rows = 35, .columns = 100, .kept = 3, .bias = true},
                               {.rows = 33, .columns = 1090, .bias = true}};
  for (const std::string& name : integer_formats())
    for (LayerShape shape : shapes) {
      shape.format = shape.activations = name;
      const bool hostile = random.below(2) == 0;
      const LinearWeight weight = hostile ? hostile_layer(random, shape) : block_layer(random, shape);
      const bool many = shape.columns < 1000 && random.below(4) == 0;
      const int64_t m = many ? 230 : 11 + static_cast<int64_t>(random.below(30));
      auto x = random_rows(random, m, shape.columns, random.below(3) == 0 ? Values::hostile : Values::outliers);
      std::fill_n(x.begin(), shape.columns, 0.0f);
      const auto layer = PackedLinear::pack(weight, detected_isa(), pool);
      ASSERT_TRUE(layer) << name << ": " << layer.error().message;
      PreparedInput input;
      prepare(layer->plan(), x.data(), shape.columns, m, detected_isa(), input, pool);
      const auto run = [&](const LinearRow* row, int64_t begin, int64_t end) {
        std::vector<float> y(static_cast<size_t>(m * shape.rows), 0.5f);
        LinearArgs args = layer->arguments(input, y.data(), shape.rows);
        args.m_begin = begin;
        args.m_end = end;
        row->kernel(args);
        return y;
      };
      ASSERT_TRUE(std::string_view(layer->rows().back()->name).ends_with("__reference")) << name;
      const auto expected = run(layer->rows().back(), 0, m);
      for (const LinearRow* row : layer->rows())
        for (const auto& [begin, end] : {std::pair<int64_t, int64_t>(0, m), {1, 3}, {2, 3}, {0, 5}, {3, 11}, {4, 4}}) {
          const auto found = run(row, begin, end);
          for (int64_t i = 0; i < m * shape.rows; ++i) {
            const bool asked = i / shape.rows >= begin && i / shape.rows < end;
            ASSERT_TRUE(same(found[static_cast<size_t>(i)], asked ? expected[static_cast<size_t>(i)] : 0.5f))
                << name << " " << row->name << " token " << i / shape.rows << " of " << begin << ".." << end
                << ", output " << i % shape.rows << (hostile ? " hostile" : "");
          }
        }
    }
}

TEST(BlockLinear, UnpacksToWhatItDecodesTo) {
  Random random(23);
  ThreadPool pool(1);
  std::vector<std::pair<std::string, std::string>> kinds;
  for (const char* format : {"bfp6", "bfp7", "nvfp4", "mxfp8", "mxfp8e5m2", "mxint8", "bl6", "bl8", "bm6", "bm8",
                             "fixed6:f4", "fixed8:f4", "e4m3", "dmf8", "bfp6:b24", "bm8:b12"})
    kinds.push_back({format, "f32"});
  for (const std::string& format : integer_formats()) kinds.push_back({format, format});
  for (const auto& [format, activations] : kinds) {
    const LayerShape shape{
        .rows = 21, .columns = 50, .kept = 4, .format = format, .activations = activations, .bias = true};
    const LinearWeight weight = activations == "f32" ? block_layer(random, shape) : hostile_layer(random, shape);
    const PackedLinear packed = PackedLinear::pack(weight, Isa::portable, pool).value();
    std::vector<float> expected(50), found(50);
    for (int64_t n = 0; n < 21; ++n) {
      decode_row(weight, n, expected);
      packed.read_row(n, found);
      for (size_t k = 0; k < found.size(); ++k)
        ASSERT_TRUE(found[k] == expected[k] || std::abs(expected[k]) < 0x1p-110f || std::isnan(expected[k]))
            << format << " " << n << " " << found[k] << " " << expected[k];
    }
    const auto image = packed.image();
    auto copy = std::make_shared<AlignedBuffer<std::byte>>(static_cast<int64_t>(image.size()));
    std::copy(image.begin(), image.end(), copy->data());
    const PackedLinear view = PackedLinear::view(packed.shape(), Isa::portable, copy->span(), copy).value();
    view.read_row(7, found);
    packed.read_row(7, expected);
    for (size_t k = 0; k < found.size(); ++k) EXPECT_TRUE(same(found[k], expected[k])) << format;
  }
}

TEST(BlockLinear, RefusesPairsThatNothingMultiplies) {
  Random random(24);
  ThreadPool pool(1);
  for (const auto& [weights, activations] :
       {std::pair("bfp4", "int8:token"), std::pair("bfp4", "bfp4:b16:search"), std::pair("bm8", "bm8:b16:paper")}) {
    const LinearWeight weight =
        block_layer(random, {.rows = 4, .columns = 32, .format = weights, .activations = activations});
    EXPECT_EQ(PackedLinear::pack(weight, Isa::portable, pool).error().code, ErrorCode::unsupported) << activations;
  }
}

}  // namespace
}  // namespace nibble
