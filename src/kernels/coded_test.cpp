// Coded layouts: every kernel gives the bits of the reference, and those of the bfloat16 weights the codes stand for.
#include <algorithm>
#include <set>

#include "kernels/linear.h"
#include "kernels/ref/coded.h"
#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

struct CodedCase {
  std::string format;
  bool coded = true;  // else its values are packed
};

const CodedCase kCases[] = {{"code1:row"},
                            {"code2:row"},
                            {"code3:row"},
                            {"code4:row"},
                            {"code2:g32"},
                            {"code3:g64"},
                            {"code4:g96"},
                            {"code1:col"},
                            {"code2:col"},
                            {"code3:col"},
                            {"code4:col"},
                            {"code:col"},
                            {"code3:g40", false},
                            {"mxfp4"},
                            {"nvfp4"},
                            {"bfp3:b16"},
                            {"fixed4:f3"},
                            {"bfp4:b24", false},
                            {"bfp5"},
                            {"bfp6"},
                            {"bfp7"},
                            {"bfp8"},
                            {"bfp8:row"},
                            {"bm6"},
                            {"bm6e2"},
                            {"bm8"},
                            {"bl6"},
                            {"bl8"},
                            {"mxfp6"},
                            {"mxfp6e3m2"},
                            {"mxfp8"},
                            {"mxfp8:b48"},
                            {"mxfp8e5m2"},
                            {"mxint8"},
                            {"e3m2"},
                            {"e2m3"},
                            {"e4m3"},
                            {"fp8e4m3"},
                            {"fp8e5m2"},
                            {"dmf8"},
                            {"fixed6:f5"},
                            {"fixed8:f3"},
                            {"bm8:b24", false}};

// Any code that is a number. Scales are 2^least .. 2^(least + 23), of E4M3 any of the middle.
LinearWeight block_weight(Random& random, const LayerShape& shape, int least = -27) {
  LinearWeight weight;
  weight.rows = shape.rows;
  weight.columns = shape.columns;
  weight.format = format_of(shape.format);
  weight.activations = format_of(shape.activations);
  weight.kept_columns = some_columns(random, shape.columns, shape.kept);
  weight.kept_levels = shape.kept_levels;
  const RowSizes sizes = row_sizes(weight.format, weight.dense_columns(), false);
  weight.codes.resize(static_cast<size_t>(shape.rows * sizes.codes));
  const Grid grid = block_grid(weight.format, 1, 1);
  for (std::byte& byte : std::span(weight.codes)) do
      byte = static_cast<std::byte>(random.below(256));
    while (weight.format.bits == 8 && !std::isfinite(grid.decode(std::to_integer<int32_t>(byte))));
  for (int64_t i = 0; i < shape.rows * sizes.groups; ++i)
    weight.scales.push_back(
        scale_of_byte(static_cast<uint8_t>(127 + least + static_cast<int>(random.below(24))), weight.format.scale));
  for (int64_t i = 0; i < shape.rows * shape.kept; ++i)
    weight.kept.push_back(round_kept(random.normal(), weight.kept_levels));
  for (int64_t n = 0; shape.bias && n < shape.rows; ++n) weight.bias.push_back(random.normal());
  return weight;
}

LinearWeight coded_weight(Random& random, const LayerShape& shape) {
  return format_of(shape.format).is_block() ? block_weight(random, shape) : random_layer(random, shape);
}

// The same layer with its dense values as bfloat16 numbers, exactly but for subnormal ones.
LinearWeight as_values(const LinearWeight& weight) {
  LinearWeight out = weight;
  out.format = format_of("bf16");
  out.codes = {};
  out.scales.clear();
  out.levels.clear();
  out.exponents.clear();
  out.widths.clear();
  std::vector<float> row(static_cast<size_t>(weight.dense_columns()));
  for (int64_t n = 0; n < weight.rows; ++n) {
    decode_dense(weight, n, row);
    for (float value : row) {
      const uint16_t bits = f32_to_bf16(value);
      EXPECT_TRUE(bf16_to_f32(bits) == value || std::fabs(value) < 0x1p-126f) << value;
      out.codes.append(std::as_bytes(std::span(&bits, 1)));
    }
  }
  return out;
}

struct Runner {
  const PackedLinear& layer;
  PreparedInput input;
  int64_t m;

  Runner(const PackedLinear& packed, std::span<const float> x, int64_t count) : layer(packed), m(count) {
    ThreadPool pool(1);
    prepare(layer.plan(), x.data(), layer.inputs(), m, Isa::portable, input, pool);
  }

  // In two pieces of the outputs. y begins as kept columns would leave it.
  std::vector<float> operator()(const LinearRow& row, int64_t panel_cut) const {
    std::vector<float> y(static_cast<size_t>(m * layer.outputs()), 0.25f);
    for (int piece = 0; piece < 2; ++piece) {
      LinearArgs args = layer.arguments(input, y.data(), layer.outputs());
      (piece == 0 ? args.panel_end : args.panel_begin) = std::min(panel_cut, args.panel_end);
      nibble::run(row, args);
    }
    return y;
  }
};

bool is_coded(const PackedLinear& layer) {
  return std::string_view(layer.rows().front()->name).starts_with("linear_coded");
}

TEST(Coded, EveryRowEqualsTheReferenceAndTheValues) {
  Random random(71);
  ThreadPool pool(1);
  const struct {
    int64_t rows, columns, kept, m;
  } sizes[] = {{1, 1, 0, 1},    {37, 97, 0, 1}, {150, 130, 3, 1}, {33, 64, 2, 7},  {35, 200, 0, 18},
               {20, 115, 0, 2}, {41, 96, 0, 5}, {18, 75, 1, 12},  {49, 161, 0, 33}};
  std::set<std::string> compared;
  for (const CodedCase& kind : kCases)
    for (const char* activations : {"f32", "bf16"})
      for (Isa isa : {Isa::portable, Isa::amx})
        for (const auto& size : sizes) {
          if (isa > detected_isa() || (isa == Isa::amx && activations == std::string("f32"))) continue;
          const LayerShape shape{.rows = size.rows,
                                 .columns = size.columns,
                                 .kept = size.kept,
                                 .format = kind.format,
                                 .activations = activations,
                                 .bias = size.m != 7};
          const LinearWeight weight = coded_weight(random, shape);
          const PackedLinear layer = PackedLinear::pack(weight, isa, pool).value();
          const PackedLinear values = PackedLinear::pack(as_values(weight), isa, pool).value();
          if (size.columns > 40) {
            ASSERT_EQ(is_coded(layer), kind.coded) << kind.format;
          }
          const auto x = random_rows(random, size.m, size.columns, Values::outliers);
          const Runner run(layer, x, size.m), run_values(values, x, size.m);
          const auto expected = run(*layer.rows().back(), 0);
          if (layer.plan().order.empty()) {
            ASSERT_EQ(expected, run_values(*values.rows().back(), 0)) << kind.format << " " << activations;
          }
          for (const LinearRow* row : linear_rows(detected_isa())) {
            if (row->weights != layer.rows().back()->weights) continue;
            compared.insert(row->name);
            const auto found = run(*row, 1 + static_cast<int64_t>(random.below(4)));
            for (size_t at = 0; at < found.size(); ++at)
              ASSERT_TRUE(same(found[at], expected[at]))
                  << row->name << " " << kind.format << " N " << size.rows << " K " << size.columns << " M " << size.m
                  << " at " << at << ": " << found[at] << ", not " << expected[at];
          }
        }
  EXPECT_GE(compared.size(), detected_isa() >= Isa::amx ? 10u : 2u);
}

// Products that bfloat16 has only as subnormal numbers, or not at all, are rounded as values are.
TEST(Coded, SmallScalesGiveTheBitsOfTheValues) {
  Random random(77);
  ThreadPool pool(1);
  for (const CodedCase& kind : kCases) {
    if (!kind.coded || format_of(kind.format).scale != ScaleCodec::power) continue;
    for (int least : {-127, -118})
      for (int64_t m : {1, 5}) {
        const LinearWeight weight = block_weight(random, {.rows = 35, .columns = 101, .format = kind.format}, least);
        const LinearWeight as_numbers = as_values(weight);
        const PackedLinear values = PackedLinear::pack(as_numbers, detected_isa(), pool).value();
        auto x = random_rows(random, m, 101, Values::normal);
        for (float& value : x) value *= 0x1p120f;
        const auto expected = Runner(values, x, m)(*values.rows().back(), 0);
        EXPECT_TRUE(std::any_of(expected.begin(), expected.end(), [](float y) { return y != 0; }));
        for (Isa isa : machine_isas()) {
          const PackedLinear layer = PackedLinear::pack(weight, isa, pool).value();
          for (const LinearRow* row : layer.rows())
            ASSERT_EQ(Runner(layer, x, m)(*row, 1), expected) << row->name << " " << kind.format << " " << least;
          std::vector<float> of_codes(101), of_values(101);
          for (int64_t n = 0; n < 35; ++n) {
            layer.read_row(n, of_codes);
            decode_row(as_numbers, n, of_values);
            for (size_t k = 0; k < of_codes.size(); ++k)
              ASSERT_TRUE(same(of_codes[k], of_values[k])) << kind.format << " " << of_codes[k] << " " << of_values[k];
          }
        }
      }
  }
}

// More tokens, outputs and inputs than rest together in a row's blocks.
TEST(Coded, LargeLayersEqualTheirValues) {
  Random random(72);
  ThreadPool pool(1);
  for (const char* format : {"code3:row", "code4:col", "mxfp8", "bfp5", "bm6", "mxint8"})
    for (const char* activations : {"f32", "bf16"}) {
      const LinearWeight weight =
          coded_weight(random, {.rows = 290, .columns = 580, .format = format, .activations = activations});
      const PackedLinear layer = PackedLinear::pack(weight, detected_isa(), pool).value();
      const PackedLinear values = PackedLinear::pack(as_values(weight), detected_isa(), pool).value();
      const auto x = random_rows(random, 70, 580, Values::normal);
      const Runner run(layer, x, 70);
      const auto expected = Runner(values, x, 70)(values.row_for(70), 0);
      for (const LinearRow* row : layer.rows())
        if (row != layer.rows().back()) {
          EXPECT_EQ(run(*row, 8), expected) << row->name << " " << format;
        }
    }
}

// Single weights beside codes: all instruction sets give the same bits, for one token and for more than sixteen.
TEST(Coded, SparsePartsDoNotDependOnTheInstructionSet) {
  Random random(76);
  ThreadPool pool(2);
  for (const char* format : {"code3:row", "code:col"})
    for (int64_t kept : {0, 3}) {
      const LinearWeight weight = coded_weight(
          random, {.rows = 70, .columns = 90, .kept = kept, .format = format, .bias = true, .sparse_part = true});
      for (int64_t m : {1, 5, 37}) {
        const auto x = random_rows(random, m, 90, Values::outliers);
        std::vector<float> expected;
        for (Isa isa : machine_isas()) {
          const PackedLinear layer = PackedLinear::pack(weight, isa, pool).value();
          PreparedInput input;
          prepare(layer.plan(), x.data(), 90, m, isa, input, pool);
          std::vector<float> y(static_cast<size_t>(m * 70), 9.0f);
          linear(layer, input, y.data(), 70, pool);
          if (isa == Isa::portable) expected = y;
          EXPECT_EQ(y, expected) << format << " " << to_string(isa) << " kept " << kept << " M " << m;
        }
      }
    }
}

TEST(Coded, OpeningGivesTheStoredNumbers) {
  Random random(73);
  ThreadPool pool(1);
  for (const CodedCase& kind : kCases) {
    if (!kind.coded) continue;
    const LinearWeight weight = coded_weight(random, {.rows = 35, .columns = 203, .format = kind.format});
    for (Isa isa : machine_isas()) {
      const PackedLinear layer = PackedLinear::pack(weight, isa, pool).value();
      PreparedInput input;
      const LinearArgs args = layer.arguments(input, nullptr, 0);
      const int64_t units = ceil_div(args.dense.k, kUnitInputs);
      for (int64_t panel = 0; panel < 3; ++panel)
        for (int64_t begin = 0; begin < units; begin += 2) {
          const int64_t k = begin * kUnitInputs, end = std::min(units * kUnitInputs, k + 3 * kUnitInputs);
          std::vector<uint16_t> opened(static_cast<size_t>((end - k) * kLanes));
          args.open(args.dense, panel, k, end, opened.data());
          for (int64_t i = k; i < end; ++i)
            for (int64_t lane = 0; lane < kLanes; ++lane)
              ASSERT_EQ(opened[static_cast<size_t>(((i - k) / 2 * kLanes + lane) * 2 + i % 2)],
                        ref::coded_value(args.dense, panel, lane, i))
                  << kind.format << " " << to_string(isa) << " input " << i << " lane " << lane;
        }
    }
  }
}

TEST(Coded, UnpacksToWhatItDecodesTo) {
  Random random(74);
  ThreadPool pool(2);
  for (const CodedCase& kind : kCases) {
    const LayerShape shape{
        .rows = 21, .columns = 131, .kept = 4, .format = kind.format, .bias = true, .sparse_part = true};
    const LinearWeight weight = coded_weight(random, shape);
    const auto result = PackedLinear::pack(weight, detected_isa(), pool);
    ASSERT_TRUE(result) << result.error().message;
    const PackedLinear& packed = *result;
    const auto image = packed.image();
    auto copy = std::make_shared<AlignedBuffer<std::byte>>(static_cast<int64_t>(image.size()));
    std::copy(image.begin(), image.end(), copy->data());
    auto viewed = PackedLinear::view(packed.shape(), detected_isa(), copy->span(), copy);
    ASSERT_TRUE(viewed) << viewed.error().message;
    const PackedLinear& view = *viewed;
    EXPECT_EQ(view.plan(), packed.plan());
    std::vector<float> expected(131), found(131);
    for (int64_t n = 0; n < 21; ++n) {
      decode_row(weight, n, expected);
      view.read_row(n, found);
      for (float& value : expected)
        if (std::fabs(value) < 0x1p-126f) value = bf16_to_f32(f32_to_bf16(value));
      ASSERT_EQ(found, expected) << kind.format << " row " << n;
    }
    EXPECT_FALSE(PackedLinear::view(packed.shape(), detected_isa(), copy->span().subspan(64), copy)) << kind.format;
  }
}

TEST(Coded, TakesAboutTheBitsOfItsCodes) {
  Random random(75);
  ThreadPool pool(1);
  for (const auto& [format, bits] :
       {std::pair("code2:col", 2.0), std::pair("code3:col", 3.0), std::pair("code4:row", 4.0), std::pair("mxfp4", 4.25),
        std::pair("bfp5", 5.5), std::pair("mxfp6", 6.25), std::pair("bfp7", 8.5), std::pair("mxfp8", 8.25),
        std::pair("e4m3", 8.0), std::pair("mxint8", 8.25), std::pair("e3m2", 6.0)})
    for (const char* activations : {"f32", "int8:token"}) {
      if (format_of(format).is_block() && activations != std::string("f32")) continue;
      const LinearWeight weight =
          coded_weight(random, {.rows = 1024, .columns = 512, .format = format, .activations = activations});
      const PackedLinear layer = PackedLinear::pack(weight, detected_isa(), pool).value();
      const double found = 8.0 * static_cast<double>(layer.bytes()) / (1024.0 * 512.0);
      EXPECT_GE(found, bits) << format;
      EXPECT_LE(found, bits + 0.51) << format;
    }
}

const char* const kIntegerFormats[] = {"code1:row", "code2:row", "code3:row", "code4:row", "code2:g32",
                                       "code3:g64", "code4:g96", "code3:g40", "code1:col", "code2:col",
                                       "code3:col", "code4:col", "code:col"};

// Every kernel that serves the layer, on every instruction set, in two pieces of the outputs.
TEST(CodedIntegers, EveryRowEqualsTheReference) {
  Random random(81);
  ThreadPool pool(1);
  const struct {
    int64_t rows, columns, kept, m;
  } sizes[] = {{1, 1, 0, 1}, {37, 97, 0, 4}, {150, 330, 3, 1}, {33, 64, 2, 3}, {85, 203, 0, 5}, {35, 200, 0, 34}};
  std::set<std::string> compared;
  for (const char* format : kIntegerFormats)
    for (const char* activations : {"int8:token:asym", "int4:token"})
      for (const auto& size : sizes) {
        const LinearWeight weight = random_layer(random, {.rows = size.rows,
                                                          .columns = size.columns,
                                                          .kept = size.kept,
                                                          .format = format,
                                                          .activations = activations,
                                                          .bias = size.m != 5});
        const auto packed = PackedLinear::pack(weight, detected_isa(), pool);
        ASSERT_TRUE(packed) << packed.error().message;
        auto x = random_rows(random, size.m, size.columns, Values::outliers);
        if (size.m == 34) x[200 * 5 + 7] = NAN;
        const Runner run(*packed, x, size.m);
        const auto expected = run(*packed->rows().back(), 0);
        for (const LinearRow* row : packed->rows()) {
          compared.insert(row->name);
          const auto found = run(*row, 2 * static_cast<int64_t>(random.below(3)));
          for (size_t at = 0; at < found.size(); ++at)
            ASSERT_TRUE(same(found[at], expected[at]))
                << row->name << " " << format << " x " << activations << " N " << size.rows << " K " << size.columns
                << " M " << size.m << " at " << at << ": " << found[at] << ", not " << expected[at];
        }
      }
  EXPECT_GE(compared.size(), detected_isa() >= Isa::amx ? 8u : 1u);
}

TEST(CodedIntegers, OpeningGivesTheirLevels) {
  Random random(85);
  ThreadPool pool(1);
  for (const char* format : kIntegerFormats)
    for (int64_t columns : {40, 203}) {
      if (format == std::string("code3:g40")) continue;  // has no codes to open
      const LinearWeight weight =
          random_layer(random, {.rows = 35, .columns = columns, .format = format, .activations = "int8:token"});
      for (Isa isa : machine_isas()) {
        const PackedLinear layer = PackedLinear::pack(weight, isa, pool).value();
        const LinearArgs args = layer.arguments(PreparedInput(), nullptr, 0);
        const int64_t inputs = args.dense.groups * args.dense.group_steps * 4;
        std::vector<int8_t> opened(static_cast<size_t>(inputs * kLanes + 1), 77);
        for (int64_t panel = 0; panel < 4; ++panel) {
          args.open_levels(args.dense, panel, opened.data());
          for (int64_t k = 0; k < inputs; ++k)
            for (int64_t lane = 0; lane < kLanes; ++lane)
              ASSERT_EQ(opened[static_cast<size_t>((k / 4 * kLanes + lane) * 4 + k % 4)],
                        ref::coded_level(args.dense, panel, lane, k))
                  << format << " " << to_string(isa) << " input " << k << " lane " << lane;
        }
        ASSERT_EQ(opened.back(), 77) << format << " " << to_string(isa);
      }
    }
}

// From the weights as they decode and the input as the plan quantizes it, in double: no layout, no kernel.
TEST(CodedIntegers, AreTheSumsOfTheirWeights) {
  Random random(82);
  ThreadPool pool(2);
  for (const char* format : kIntegerFormats)
    for (const bool single : {false, true}) {
      const LayerShape shape{
          .rows = 40, .columns = 150, .format = format, .activations = "int8:token:asym", .sparse_part = single};
      const LinearWeight weight = random_layer(random, shape);
      const PackedLinear layer = PackedLinear::pack(weight, detected_isa(), pool).value();
      const bool by_column = weight.format.sharing == Sharing::column;
      for (int64_t m : {1, 19}) {
        const auto x = random_rows(random, m, 150, Values::outliers);
        PreparedInput input;
        prepare(layer.plan(), x.data(), 150, m, detected_isa(), input, pool);
        std::vector<float> y(static_cast<size_t>(m * 40)), w(150);
        linear(layer, input, y.data(), 40, pool);
        for (int64_t n = 0; n < 40; ++n) {
          decode_dense(weight, n, w);
          for (int64_t i = 0; i < m; ++i) {
            std::vector<float> row(x.begin() + i * 150, x.begin() + (i + 1) * 150);
            double sparse = 0, sum = 0, size = 0;
            for (int64_t at = single ? weight.sparse.begin(n) : 0; single && at < weight.sparse.end(n); ++at)
              sparse += double{weight.sparse.values[static_cast<size_t>(at)]} *
                        row[static_cast<size_t>(weight.sparse.columns[static_cast<size_t>(at)])];
            for (size_t k = 0; by_column && k < 150; ++k) row[k] = std::ldexp(row[k], weight.exponents[k]);
            const Grid grid = fit_grid(range_of(row), 8, true);
            for (size_t k = 0; k < 150; ++k) {
              const double level = by_column ? std::ldexp(w[k], -weight.exponents[k]) : w[k];
              sum += grid.round(row[k]) * level;
              size += std::abs(grid.round(row[k]) * level);
            }
            EXPECT_NEAR(y[static_cast<size_t>(i * 40 + n)], sum + sparse, 1e-6 * (size + std::abs(sparse)) + 1e-6)
                << format << " token " << i << " of " << m << " output " << n << (single ? " with single weights" : "");
          }
        }
      }
    }
}

// One by one or together, on any number of threads and any instruction set: the same bits.
TEST(CodedIntegers, DoNotDependOnTheBatch) {
  Random random(83);
  ThreadPool one(1), two(2);
  for (const char* format : {"code3:col", "code:col", "code4:g64", "code2:row"}) {
    const LinearWeight weight = random_layer(
        random,
        {.rows = 210, .columns = 180, .kept = 2, .format = format, .activations = "int8:token", .sparse_part = true});
    const auto x = random_rows(random, 37, 180, Values::outliers);
    std::vector<float> expected;
    for (Isa isa : machine_isas())
      for (int64_t together : {1, 2, 8, 37}) {
        const PackedLinear layer = PackedLinear::pack(weight, isa, one).value();
        std::vector<float> y(37 * 210);
        for (int64_t m = 0; m < 37; m += together) {
          PreparedInput input;
          const int64_t count = std::min<int64_t>(together, 37 - m);
          ThreadPool& pool = together == 8 ? two : one;
          prepare(layer.plan(), x.data() + m * 180, 180, count, isa, input, pool);
          linear(layer, input, y.data() + m * 210, 210, pool);
        }
        if (expected.empty()) expected = y;
        ASSERT_EQ(y, expected) << format << " " << to_string(isa) << ", " << together << " together";
      }
  }
}

TEST(CodedIntegers, UnpackToWhatTheyDecodeTo) {
  Random random(84);
  ThreadPool pool(1);
  for (const char* format : kIntegerFormats) {
    const LinearWeight weight = random_layer(random, {.rows = 21,
                                                      .columns = 231,
                                                      .kept = 4,
                                                      .format = format,
                                                      .activations = "int8:token",
                                                      .bias = true,
                                                      .sparse_part = true});
    const PackedLinear packed = PackedLinear::pack(weight, detected_isa(), pool).value();
    auto copy = std::make_shared<AlignedBuffer<std::byte>>(packed.bytes());
    std::copy(packed.image().begin(), packed.image().end(), copy->data());
    const auto view = PackedLinear::view(packed.shape(), detected_isa(), copy->span(), copy);
    ASSERT_TRUE(view) << view.error().message;
    EXPECT_EQ(view->plan(), packed.plan());
    std::vector<float> expected(231), found(231);
    for (int64_t n = 0; n < 21; ++n) {
      decode_row(weight, n, expected);
      view->read_row(n, found);
      ASSERT_EQ(found, expected) << format << " row " << n;
    }
    PackedShape other = packed.shape();
    other.exponents.push_back(0);
    EXPECT_FALSE(PackedLinear::view(other, detected_isa(), copy->span(), copy)) << format;
  }
}

}  // namespace
}  // namespace nibble
