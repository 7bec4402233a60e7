#include "kernels/linear.h"

#include <algorithm>
#include <set>

#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

PackedLinear packed(const LinearWeight& weight, Isa isa = Isa::portable) {
  ThreadPool pool(1);
  auto layer = PackedLinear::pack(weight, isa, pool);
  EXPECT_TRUE(layer) << layer.error().message;
  return std::move(*layer);
}

bool serves(const LinearRow& row, const LinearArgs& args, const NumberFormat& input) {
  return row.weights == args.dense.type && (row.activation_bits > 0) == input.is_integer() &&
         (!input.is_integer() ||
          (input.bits <= row.activation_bits && args.dense.group_steps % row.traits.step_multiple == 0));
}

const LinearRow& reference_for(const LinearArgs& args, const NumberFormat& input) {
  for (const LinearRow* row : linear_rows(Isa::portable))
    if (serves(*row, args, input)) return *row;
  ADD_FAILURE() << "no reference row";
  return *linear_rows(Isa::portable).front();
}

// What y holds before the dense part runs: the kept columns' outputs, or a number no kernel may read.
std::vector<float> begin_outputs(const PackedLinear& layer, const PreparedInput& input, int64_t y_stride) {
  std::vector<float> y(static_cast<size_t>(input.count * y_stride), 12345.0f);
  const LinearArgs args = layer.kept_arguments(input, y.data(), y_stride);
  if (args.dense.k > 0) reference_for(args, NumberFormat()).kernel(args);
  return y;
}

// Runs a kernel on all outputs in two pieces each way, as threads would.
void run_cut(const LinearRow& row, const LinearArgs& args, Random& random) {
  const int64_t m_cut = static_cast<int64_t>(random.below(static_cast<uint64_t>(args.m_end + 1)));
  const int64_t panel_cut = static_cast<int64_t>(random.below(static_cast<uint64_t>(args.panel_end / 2 + 1))) * 2;
  for (int piece = 0; piece < 4; ++piece) {
    LinearArgs part = args;
    (piece % 2 == 0 ? part.m_end : part.m_begin) = m_cut;
    (piece / 2 == 0 ? part.panel_end : part.panel_begin) = panel_cut;
    row.kernel(part);
  }
}

// A layer with its prepared input; `y` has a few columns more than the layer has outputs, which must stay untouched.
struct Case {
  LayerShape shape;
  int64_t m = 1, x_extra = 0, y_extra = 0;
  Values values = Values::normal;
  LinearWeight weight;
  std::vector<float> x, y;
  PreparedInput input;

  int64_t y_stride() const { return shape.rows + y_extra; }
  void build(Random& random) {
    weight = random_layer(random, shape);
    x = random_rows(random, m, shape.columns + x_extra, values);
    y.assign(static_cast<size_t>(m * y_stride()), 12345.0f);
  }
  void prepare_with(const PackedLinear& layer) {
    ThreadPool pool(1);
    prepare(layer.plan(), x.data(), shape.columns + x_extra, m, Isa::portable, input, pool);
  }
  std::string name() const {
    return fmt::format("M {} N {} K {} {} x {} kept {} bias {} values {} extreme {}", m, shape.rows, shape.columns,
                       shape.format, shape.activations, shape.kept, shape.bias, static_cast<int>(values),
                       shape.extreme);
  }
};

// Case number i of a kind: over all i, M takes every value in 1..33 and N and K every remainder modulo 64.
Case numbered_case(Random& random, int i, const std::string& levels, const std::string& input) {
  Case c;
  c.m = 1 + i % 33;
  c.shape.rows = 1 + i % 64 + (i % 7 == 0 ? 64 : 0);
  c.shape.columns = 1 + (i * 5 + i / 64) % 64 + static_cast<int64_t>(random.below(2)) * 64;
  if (i % 3 == 0) c.shape.kept = std::min<int64_t>(c.shape.columns, static_cast<int64_t>(random.below(71)));
  if (i % 2 == 0) c.shape.kept_levels = Levels::bf16;
  c.shape.format = levels;
  if (levels.starts_with("int")) {
    constexpr const char* kSharing[] = {":row", ":g8", ":g32", ":g7", ":g128", ":tensor"};
    c.shape.format += kSharing[random.below(6)];
    if (random.below(2) == 0) c.shape.format += ":asym";
  }
  c.shape.activations = input;
  c.shape.bias = i % 2 == 0;
  c.shape.extreme = i % 4;
  c.values = static_cast<Values>(random.below(kValueKinds));
  c.x_extra = static_cast<int64_t>(random.below(5));
  c.y_extra = static_cast<int64_t>(random.below(3));
  return c;
}

struct Kind {
  std::string levels, input;
  Isa isa = Isa::portable;  // that the layer is packed for
};

class RowsTest : public ::testing::TestWithParam<Kind> {};

// Scales that no packed layer has, but that kernels must treat alike; in either form.
struct OddScales {
  std::vector<float> wide;
  std::vector<uint16_t> compact;
  OddScales(Random& random, int64_t count) {
    constexpr float kOdd[] = {0.0f, -0.0f, -1.0f, 1e38f, 1e-42f, 1.0f};
    constexpr uint16_t kOddHalves[] = {0x0000, 0x8000, 0xBC00, 0x7BFF, 0x0001, 0x3C00};
    for (int64_t i = 0; i < count; ++i) {
      wide.push_back(kOdd[random.below(6)]);
      compact.push_back(kOddHalves[random.below(6)]);
    }
  }
};

TEST_P(RowsTest, EveryRowEqualsTheReference) {
  const auto& [levels, input, isa] = GetParam();
  if (isa > detected_isa()) GTEST_SKIP() << "this machine has no " << to_string(isa);
  Random random(std::hash<std::string>()(levels + input));
  const std::vector<const LinearRow*> rows = linear_rows(detected_isa());
  std::set<std::string> compared;
  for (int i = 0; i < 33 * 64; ++i) {
    Case c = numbered_case(random, i, levels, input);
    c.build(random);
    const PackedLinear layer = packed(c.weight, isa);
    c.prepare_with(layer);
    LinearArgs args = layer.arguments(c.input, c.y.data(), c.y_stride());
    const OddScales odd(random, round_up(args.panel_end, 2) * args.dense.groups * kLanes);
    const void* const scales = args.dense.compact ? static_cast<const void*>(odd.compact.data()) : odd.wide.data();
    if (i % 16 == 0 && args.dense.scales != nullptr) args.dense.scales = scales;
    const LinearRow& reference = reference_for(args, c.weight.activations);
    const std::vector<float> begun = begin_outputs(layer, c.input, c.y_stride());
    c.y = begun;
    args.y = c.y.data();
    reference.kernel(args);
    for (const LinearRow* row : rows) {
      if (row == &reference || !serves(*row, args, c.weight.activations)) continue;
      std::vector<float> y = begun;
      args.y = y.data();
      run_cut(*row, args, random);
      compared.insert(row->name);
      for (size_t at = 0; at < y.size(); ++at)
        ASSERT_TRUE(same(y[at], c.y[at]))
            << row->name << ", " << c.name() << ": token " << at / static_cast<size_t>(c.y_stride()) << " output "
            << at % static_cast<size_t>(c.y_stride()) << " is " << y[at] << ", the reference gives " << c.y[at];
    }
  }
  const auto complete = isa == Isa::portable ? std::min(detected_isa(), Isa::avx512vnni) : Isa{1};
  EXPECT_GE(compared.size(), static_cast<size_t>(complete)) << "each instruction set up to avx512vnni has a row";
}

INSTANTIATE_TEST_SUITE_P(All, RowsTest,
                         ::testing::Values(Kind{"int4", "int8:token:asym"}, Kind{"int4", "int4:token:asym"},
                                           Kind{"int3", "int4:token"}, Kind{"int8", "int8:token:asym"},
                                           Kind{"int8", "int4:token:asym"}, Kind{"int6", "int8:token"},
                                           Kind{"int4", "f32"}, Kind{"int8", "f32"}, Kind{"f32", "f32"},
                                           Kind{"f16", "f32"}, Kind{"bf16", "f32"}, Kind{"bf16", "bf16"},
                                           Kind{"bf16", "bf16", Isa::amx}),
                         [](const auto& param_info) {
                           std::string name = param_info.param.levels + "_" + param_info.param.input;
                           std::replace(name.begin(), name.end(), ':', '_');
                           if (param_info.param.isa != Isa::portable)
                             name.append("_").append(to_string(param_info.param.isa));
                           return name;
                         });

// Blocks of tokens, outputs and inputs, which only large layers have: more than 264 tokens and 256 outputs of floats,
// 512 of tiles, more than 4096 inputs in a group, more than 64 groups.
TEST(Linear, ManyTokensAndInputsEqualTheReference) {
  Random random(19);
  const struct {
    int64_t m, rows, columns;
    const char *format, *input;
  } cases[] = {{205, 37, 300, "int4:g128:asym", "int8:token:asym"},
               {74, 40, 700, "int4:g8", "int8:token"},
               {97, 33, 2304, "int4:g128", "int8:token:asym"},
               {193, 16, 1100, "int4:g16:asym", "int4:token:asym"},
               {80, 32, 4500, "int4:row:asym", "int8:token:asym"},
               {261, 48, 200, "int4:g7", "int8:token"},
               {75, 70, 2100, "int8:row", "int8:token:asym"},
               {290, 32, 260, "int8:g64:asym", "int8:token:asym"},
               {78, 20, 4200, "int4:g1400:asym", "int8:token"},
               {290, 290, 500, "f32", "f32"},
               {270, 260, 200, "f16", "f32"},
               {530, 550, 600, "bf16", "bf16"}};
  for (const auto& [m, rows, columns, format, activations] : cases) {
    Case c;
    c.m = m;
    c.shape = {.rows = rows, .columns = columns, .format = format, .activations = activations, .bias = m % 2 == 0};
    c.build(random);
    const PackedLinear layer = packed(c.weight, detected_isa());
    c.prepare_with(layer);
    LinearArgs args = layer.arguments(c.input, c.y.data(), c.y_stride());
    reference_for(args, c.weight.activations).kernel(args);
    for (const LinearRow* row : layer.rows()) {
      std::vector<float> y(c.y.size());
      args.y = y.data();
      row->kernel(args);
      for (size_t at = 0; at < y.size(); ++at)
        ASSERT_TRUE(same(y[at], c.y[at]))
            << row->name << ", " << c.name() << ": value " << at << " is " << y[at] << ", not " << c.y[at];
    }
  }
}

// What the layer should compute, from the definitions in format/ and in double precision.
struct Oracle {
  double value, magnitude;  // the sum and the sum of absolute terms
};

void round_to_bf16(float& value) { value = bf16_to_f32(f32_to_bf16(value)); }

std::vector<float> oracle_input(const LinearWeight& weight, std::span<const float> x) {
  std::vector<float> values(x.begin(), x.end());
  if (weight.kept_levels == Levels::bf16)
    for (int32_t column : weight.kept_columns) round_to_bf16(values[static_cast<size_t>(column)]);
  const std::vector<int32_t> dense = dense_columns_of(weight.columns, weight.kept_columns);
  if (weight.activations.levels == Levels::bf16)
    for (int32_t column : dense) round_to_bf16(values[static_cast<size_t>(column)]);
  if (!weight.activations.is_integer()) return values;
  std::vector<float> in;
  for (int32_t column : dense) in.push_back(x[static_cast<size_t>(column)]);
  const Grid grid = fit_grid(range_of(in), weight.activations.bits, weight.activations.offset);
  for (int32_t column : dense) values[static_cast<size_t>(column)] = grid.round(values[static_cast<size_t>(column)]);
  return values;
}

Oracle oracle_output(std::span<const float> w, std::span<const float> x, float bias) {
  Oracle out{bias, std::abs(bias)};
  for (size_t k = 0; k < w.size(); ++k) {
    out.value += static_cast<double>(w[k]) * x[k];
    out.magnitude += std::abs(static_cast<double>(w[k]) * x[k]);
  }
  return out;
}

TEST(Linear, EqualsAnIndependentOracle) {
  Random random(7);
  const Kind kinds[] = {{"int4:row", "int8:token:asym"},
                        {"int4:g8:asym", "int8:token:asym"},
                        {"int2", "int4:token"},
                        {"int8:row", "int8:token"},
                        {"int8:g32:asym", "int4:token:asym"},
                        {"int5:asym", "f32"},
                        {"int4:g32:asym", "f32"},
                        {"int:g8:asym", "int8:token:asym"},
                        {"int:g32", "f32"},
                        {"f32", "f32"},
                        {"f16", "f32"},
                        {"bf16", "f32"},
                        {"bf16", "bf16"},
                        {"code3:row", "f32"},
                        {"code2:g8", "bf16"},
                        {"code4:col", "bf16"},
                        {"code:col", "f32"},
                        {"code:col", "bf16"}};
  ThreadPool pool(2);
  for (int i = 0; i < 600; ++i) {
    const Kind& kind = kinds[static_cast<size_t>(i) % std::size(kinds)];
    Case c = numbered_case(random, i, "f32", kind.input);
    c.shape.format = kind.levels;
    c.shape.columns = ceil_div(c.shape.columns, 4) * 4;
    c.shape.kept = c.shape.kept / 4 * 4;
    c.shape.sparse24 = i % 5 == 1 && kind.levels.starts_with("int") && !kind.levels.starts_with("int:");
    c.shape.sparse_part = i % 3 != 1 && kind.levels.starts_with("code");
    c.values = static_cast<Values>(random.below(5));
    c.build(random);
    const Isa isa = machine_isas()[static_cast<size_t>(i) % machine_isas().size()];
    const PackedLinear layer = packed(c.weight, isa);
    prepare(layer.plan(), c.x.data(), c.shape.columns + c.x_extra, c.m, isa, c.input, pool);
    linear(layer, c.input, c.y.data(), c.y_stride(), pool);
    std::vector<float> w(static_cast<size_t>(c.shape.columns));
    for (int64_t n = 0; n < c.shape.rows; ++n) {
      decode_row(c.weight, n, w);
      const float bias = c.shape.bias ? c.weight.bias[static_cast<size_t>(n)] : 0.0f;
      for (int64_t m = 0; m < c.m; ++m) {
        const auto x =
            oracle_input(c.weight, std::span(c.x).subspan(static_cast<size_t>(m * (c.shape.columns + c.x_extra)),
                                                          static_cast<size_t>(c.shape.columns)));
        const Oracle expected = oracle_output(w, x, bias);
        ASSERT_NEAR(c.y[static_cast<size_t>(m * c.y_stride() + n)], expected.value, 1e-5 * expected.magnitude + 1e-12)
            << c.name() << " token " << m << " output " << n;
      }
    }
  }
}

TEST(Linear, ResultsDoNotDependOnThreadsOrBatch) {
  Random random(11);
  for (const Kind& kind : {Kind{"int4:g32", "int8:token:asym"}, Kind{"int8", "f32"}, Kind{"bf16", "bf16"}}) {
    Case c;
    c.shape = {.rows = 333,
               .columns = 260,
               .kept = 4,
               .format = kind.levels,
               .activations = kind.input,
               .bias = true,
               .kept_levels = kind.input == "f32" ? Levels::f16 : Levels::bf16};
    c.m = 29;
    c.build(random);
    const PackedLinear layer = packed(c.weight, detected_isa());
    for (int threads : {1, 2, 4}) {
      ThreadPool pool(threads);
      std::vector<float> y(c.y.size());
      prepare(layer.plan(), c.x.data(), c.shape.columns, c.m, detected_isa(), c.input, pool);
      linear(layer, c.input, y.data(), c.y_stride(), pool);
      if (threads == 1) c.y = y;
      EXPECT_EQ(y, c.y) << threads << " threads, " << c.name();
      for (int64_t m = 0; m < c.m; m += 7) {
        std::vector<float> alone(static_cast<size_t>(c.shape.rows));
        PreparedInput input;
        prepare(layer.plan(), c.x.data() + m * c.shape.columns, c.shape.columns, 1, detected_isa(), input, pool);
        linear(layer, input, alone.data(), c.shape.rows, pool);
        EXPECT_TRUE(std::equal(alone.begin(), alone.end(), c.y.begin() + m * c.shape.rows))
            << "token " << m << " alone";
      }
    }
  }
}

void expect_same_weight(const LinearWeight& a, const LinearWeight& b, const std::string& what) {
  EXPECT_EQ(a.rows, b.rows) << what;
  EXPECT_EQ(a.columns, b.columns) << what;
  EXPECT_EQ(a.format, b.format) << what;
  EXPECT_EQ(a.activations, b.activations) << what;
  EXPECT_EQ(a.kept_columns, b.kept_columns) << what;
  EXPECT_EQ(a.codes, b.codes) << what;
  EXPECT_EQ(a.scales, b.scales) << what;
  EXPECT_EQ(a.offsets, b.offsets) << what;
  EXPECT_EQ(a.kept, b.kept) << what;
  if (a.kept_count() > 0) {
    EXPECT_EQ(a.kept_levels, b.kept_levels) << what;
  }
  EXPECT_EQ(a.bias, b.bias) << what;
}

TEST(Linear, UnpackingReturnsWhatWasPacked) {
  Random random(13);
  ThreadPool pool(2);
  std::vector<std::string> formats;
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) {
    if (format_of(row->name).is_block()) continue;  // block_format_test.cpp
    formats.emplace_back(row->name);
    if (row->levels == Levels::table && row->bits > 0)
      for (const char* sharing : {":col", ":g7"}) formats.push_back(std::string(row->name) + sharing);
    if (row->levels != Levels::integer) continue;
    for (const char* sharing : {":asym", ":g16", ":g7:asym", ":tensor"})
      if (row->bits > 0 || sharing != std::string(":tensor")) formats.push_back(std::string(row->name) + sharing);
  }
  for (const std::string& format : formats) {
    for (int64_t rows : {1, 16, 17, 40}) {
      const LayerShape shape{.rows = rows,
                             .columns = 61,
                             .kept = rows % 3 * 5,
                             .format = format,
                             .activations = format == "bf16" && rows < 17 ? "bf16" : "f32",
                             .bias = rows % 2 == 1,
                             .sparse_part = rows == 17 && format.starts_with("code"),
                             .kept_levels = rows == 16 ? Levels::f16 : Levels::bf16};
      const LinearWeight weight = random_layer(random, shape);
      auto layer = PackedLinear::pack(weight, detected_isa(), pool);
      ASSERT_TRUE(layer) << layer.error().message;
      if (!weight.format.is_learned())
        expect_same_weight(layer->unpack(), weight, fmt::format("{} with {} rows", format, rows));
      std::vector<float> expected(61), found(61);
      for (int64_t n = 0; n < rows; ++n) {
        decode_row(weight, n, expected);
        layer->read_row(n, found);
        EXPECT_EQ(found, expected) << format << " row " << n << " of " << rows;
      }
    }
  }
}

TEST(Linear, SparsePatternsUnpackToTheSameValues) {
  Random random(17);
  for (const char* format : {"int4", "int8:g32", "int4:g20:asym", "int3:asym"}) {
    const LayerShape shape{.rows = 19, .columns = 71, .kept = 7, .format = format, .sparse24 = true};
    const LinearWeight weight = random_layer(random, shape);
    const LinearWeight dense = packed(weight).unpack();
    std::vector<float> before(71), after(71);
    for (int64_t n = 0; n < weight.rows; ++n) {
      decode_row(weight, n, before);
      decode_row(dense, n, after);
      EXPECT_EQ(before, after) << format << " row " << n;
    }
  }
}

// Products and sums around the least normal number, where a kernel that rounds to subnormals first differs.
TEST(Linear, Bf16InputFlushesSubnormals) {
  Random random(43);
  for (Isa isa : {Isa::portable, detected_isa()}) {
    for (int i = 0; i < 20; ++i) {
      Case c;
      c.shape = {.rows = 40, .columns = 64, .format = "bf16", .activations = "bf16", .bias = true};
      c.m = 1 + i;
      c.build(random);
      const auto small = [&](int exponent) {
        return std::ldexp(static_cast<float>(static_cast<int>(random.below(15)) - 7), exponent);
      };
      for (float& x : c.x) x = small(-76);
      for (float& bias : c.weight.bias) bias = std::ldexp(random.below(2) == 0 ? 1.0f : -1.0f, -126);
      for (int64_t at = 0; at < 40 * 64; ++at) {
        const uint16_t w = f32_to_bf16(at % 9 == 0 ? small(-52) : at % 5 == 0 ? small(-76) : 0);
        std::memcpy(c.weight.codes.data() + 2 * at, &w, 2);
      }
      const PackedLinear layer = packed(c.weight, isa);
      c.prepare_with(layer);
      LinearArgs args = layer.arguments(c.input, c.y.data(), c.y_stride());
      reference_for(args, c.weight.activations).kernel(args);
      for (const LinearRow* row : linear_rows(detected_isa())) {
        if (!serves(*row, args, c.weight.activations)) continue;
        std::vector<float> y(c.y.size());
        args.y = y.data();
        row->kernel(args);
        for (size_t at = 0; at < y.size(); ++at) ASSERT_TRUE(same(y[at], c.y[at])) << row->name << " at " << at;
      }
    }
  }
}

TEST(Linear, RefusesWhatNoKernelServes) {
  Random random(19);
  ThreadPool pool(1);
  const auto refuse = [&](LinearWeight weight, ErrorCode code, std::string_view part) {
    auto layer = PackedLinear::pack(weight, Isa::portable, pool);
    ASSERT_FALSE(layer);
    EXPECT_EQ(layer.error().code, code) << layer.error().message;
    EXPECT_NE(layer.error().message.find(part), std::string::npos) << layer.error().message;
  };
  refuse(random_layer(random, {.rows = 2, .columns = 8, .format = "f16", .activations = "int8:token"}),
         ErrorCode::unsupported, "2 x 8 in f16 with input in int8:token: quantized input needs integer weights");
  refuse(random_layer(random, {.rows = 2, .columns = 8, .format = "f16", .activations = "bf16"}),
         ErrorCode::unsupported, "input is f32, quantized, or bf16 where the weights are");
  refuse(random_layer(random, {.rows = 2, .columns = 8, .activations = "int8:g4"}), ErrorCode::unsupported,
         "one scale per token");
  refuse(random_layer(random, {.rows = 1, .columns = 65800, .format = "int8", .activations = "int8:token"}),
         ErrorCode::unsupported, "exceed 32 bits");
  LinearWeight torn = random_layer(random, {.rows = 2, .columns = 8});
  torn.scales.pop_back();
  refuse(torn, ErrorCode::corrupt, "scales");
}

TEST(Linear, LargestExactSum) {
  LayerShape shape{.rows = 3, .columns = 65536, .format = "int8", .activations = "int8:token:asym", .extreme = 1};
  Random random(23);
  LinearWeight weight = random_layer(random, shape);
  for (float& scale : weight.scales) scale = 1;
  std::vector<float> x(65536, 1.0f), y(3);
  for (Isa isa : machine_isas()) {
    ThreadPool pool(1);
    const PackedLinear layer = packed(weight, isa);
    PreparedInput input;
    prepare(layer.plan(), x.data(), 65536, 1, isa, input, pool);
    linear(layer, input, y.data(), 3, pool);
    // Codes 255, levels -128: the sum is -2139095040, times a scale of 1/255.
    EXPECT_FLOAT_EQ(y[2], -65536.0f * 128) << to_string(isa);
  }
}

TEST(Linear, AllColumnsKept) {
  Random random(29);
  for (const char* activations : {"int8:token:asym", "f32"}) {
    Case c;
    c.shape = {.rows = 20, .columns = 9, .kept = 9, .format = "int4", .activations = activations, .bias = true};
    c.m = 3;
    c.build(random);
    ThreadPool pool(1);
    const PackedLinear layer = packed(c.weight, detected_isa());
    prepare(layer.plan(), c.x.data(), 9, 3, detected_isa(), c.input, pool);
    linear(layer, c.input, c.y.data(), 20, pool);
    std::vector<float> w(9);
    decode_row(c.weight, 19, w);
    const Oracle expected = oracle_output(w, std::span(c.x).last(9), c.weight.bias[19]);
    EXPECT_NEAR(c.y.back(), expected.value, 1e-5 * expected.magnitude);
  }
}

TEST(Linear, ForcedIsaIsTheOneThatRuns) {
  const char* before = std::getenv("NIBBLE_ISA");
  const std::string saved = before == nullptr ? "" : before;
  Random random(31);
  const LinearWeight weight = random_layer(random, {.rows = 16, .columns = 16, .activations = "int8:token"});
  for (Isa isa : machine_isas()) {
    setenv("NIBBLE_ISA", to_string(isa).c_str(), 1);
    ASSERT_EQ(selected_isa(), isa);
    const PackedLinear layer = packed(weight, *selected_isa());
    const std::string name = layer.row_for(1).name;
    const Isa complete = std::min(isa, Isa::avx512vnni);  // later ones add rows for many tokens or other inputs
    const std::string suffix = isa == Isa::portable ? "__reference" : "__" + to_string(complete);
    EXPECT_NE(name.find(suffix), std::string::npos) << name;
    EXPECT_EQ(layer.explain(1).find(name), 0u);
    if (isa == Isa::portable) {
      EXPECT_NE(layer.explain(1).find("needs avx2, running portable"), std::string::npos) << layer.explain(1);
    }
  }
  setenv("NIBBLE_ISA", "sse9", 1);
  EXPECT_EQ(selected_isa().error().code, ErrorCode::unsupported);
  if (saved.empty()) {
    unsetenv("NIBBLE_ISA");
  } else {
    setenv("NIBBLE_ISA", saved.c_str(), 1);
  }
}

TEST(Linear, ExplainSaysWhyBetterRowsAreRefused) {
  if (detected_isa() < Isa::avx2) GTEST_SKIP() << "this machine has no AVX2";
  Random random(37);
  const LinearWeight weight =
      random_layer(random, {.rows = 16, .columns = 16, .format = "int8", .activations = "int8:token"});
  EXPECT_EQ(packed(weight, Isa::avx2).explain(5),
            "linear_w8_a8__avx2_6x16 (linear_w8_a8__amx_32x32: needs amx, running avx2; "
            "linear_w8_a8__avx512vnni_12x32: needs avx512vnni, running avx2; linear_w8_a4__avx2_6x16: serves input of "
            "4 bits at most, this has 8)");
}

}  // namespace
}  // namespace nibble
