#include "kernels/linear.h"

#include <algorithm>
#include <set>

#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

std::vector<Isa> machine_isas() {
  std::vector<Isa> isas;
  for (Isa isa : kAllIsas)
    if (isa <= detected_isa()) isas.push_back(isa);
  return isas;
}

PackedLinear packed(const LinearWeight& weight, Isa isa = Isa::portable) {
  ThreadPool pool(1);
  auto layer = PackedLinear::pack(weight, isa, pool);
  EXPECT_TRUE(layer) << layer.error().message;
  return std::move(*layer);
}

bool serves(const LinearRow& row, const LinearArgs& args, const NumberFormat& input) {
  return row.weights == args.dense.type && row.integer_input == input.is_integer() &&
         (!row.integer_input ||
          (input.bits <= row.max_activation_bits && args.dense.group_steps % row.step_multiple == 0));
}

const LinearRow& reference_for(const LinearArgs& args, const NumberFormat& input) {
  for (const LinearRow* row : linear_rows(Isa::portable))
    if (serves(*row, args, input)) return *row;
  ADD_FAILURE() << "no reference row";
  return *linear_rows(Isa::portable).front();
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
};

class RowsTest : public ::testing::TestWithParam<Kind> {};

// Scales that no packed layer has, but that kernels must treat alike.
std::vector<float> odd_scales(Random& random, int64_t count) {
  constexpr float kOdd[] = {0.0f, -0.0f, -1.0f, 1e38f, 1e-42f, 1.0f};
  std::vector<float> scales(static_cast<size_t>(count));
  for (float& scale : scales) scale = kOdd[random.below(6)];
  return scales;
}

TEST_P(RowsTest, EveryRowEqualsTheReference) {
  const auto& [levels, input] = GetParam();
  Random random(std::hash<std::string>()(levels + input));
  const std::vector<const LinearRow*> rows = linear_rows(detected_isa());
  std::set<std::string> compared;
  for (int i = 0; i < 33 * 64; ++i) {
    Case c = numbered_case(random, i, levels, input);
    c.build(random);
    const PackedLinear layer = packed(c.weight);
    c.prepare_with(layer);
    LinearArgs args = layer.arguments(c.input, c.y.data(), c.y_stride());
    const auto scales = odd_scales(random, round_up(args.panel_end, 2) * args.dense.groups * kLanes);
    if (i % 16 == 0 && args.dense.scales != nullptr) args.dense.scales = scales.data();
    const LinearRow& reference = reference_for(args, c.weight.activations);
    reference.kernel(args);
    for (const LinearRow* row : rows) {
      if (row == &reference || !serves(*row, args, c.weight.activations)) continue;
      std::vector<float> y(c.y.size(), 12345.0f);
      args.y = y.data();
      run_cut(*row, args, random);
      compared.insert(row->name);
      for (size_t at = 0; at < y.size(); ++at)
        ASSERT_TRUE(same(y[at], c.y[at]))
            << row->name << ", " << c.name() << ": token " << at / static_cast<size_t>(c.y_stride()) << " output "
            << at % static_cast<size_t>(c.y_stride()) << " is " << y[at] << ", the reference gives " << c.y[at];
    }
  }
  const auto complete = static_cast<size_t>(std::min(detected_isa(), Isa::avx512vnni));
  EXPECT_GE(compared.size(), complete) << "each instruction set up to avx512vnni has a row";
}

INSTANTIATE_TEST_SUITE_P(All, RowsTest,
                         ::testing::Values(Kind{"int4", "int8:token:asym"}, Kind{"int4", "int4:token:asym"},
                                           Kind{"int3", "int4:token"}, Kind{"int8", "int8:token:asym"},
                                           Kind{"int8", "int4:token:asym"}, Kind{"int6", "int8:token"},
                                           Kind{"int4", "f32"}, Kind{"int8", "f32"}, Kind{"f32", "f32"},
                                           Kind{"f16", "f32"}, Kind{"bf16", "f32"}),
                         [](const auto& param_info) {
                           std::string name = param_info.param.levels + "_" + param_info.param.input;
                           std::replace(name.begin(), name.end(), ':', '_');
                           return name;
                         });

// What the layer should compute, from the definitions in format/ and in double precision.
struct Oracle {
  double value, magnitude;  // the sum and the sum of absolute terms
};

std::vector<float> oracle_input(const LinearWeight& weight, std::span<const float> x) {
  std::vector<float> values(x.begin(), x.end());
  if (!weight.activations.is_integer()) return values;
  const std::vector<int32_t> dense = dense_columns_of(weight.columns, weight.kept_columns);
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
                        {"f32", "f32"},
                        {"f16", "f32"},
                        {"bf16", "f32"}};
  ThreadPool pool(2);
  for (int i = 0; i < 400; ++i) {
    const Kind& kind = kinds[static_cast<size_t>(i) % std::size(kinds)];
    Case c = numbered_case(random, i, "f32", kind.input);
    c.shape.format = kind.levels;
    c.shape.columns = ceil_div(c.shape.columns, 4) * 4;
    c.shape.kept = c.shape.kept / 4 * 4;
    c.shape.sparse24 = i % 5 == 1 && kind.levels.starts_with("int");
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
  for (const Kind& kind : {Kind{"int4:g32", "int8:token:asym"}, Kind{"int8", "f32"}, Kind{"bf16", "f32"}}) {
    Case c;
    c.shape = {.rows = 333, .columns = 260, .kept = 4, .format = kind.levels, .activations = kind.input, .bias = true};
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
  EXPECT_EQ(a.bias, b.bias) << what;
}

TEST(Linear, UnpackingReturnsWhatWasPacked) {
  Random random(13);
  ThreadPool pool(2);
  std::vector<std::string> formats;
  for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) {
    formats.emplace_back(row->name);
    if (row->levels != Levels::integer) continue;
    for (const char* sharing : {":asym", ":g16", ":g7:asym", ":tensor"})
      formats.push_back(std::string(row->name) + sharing);
  }
  for (const std::string& format : formats) {
    for (int64_t rows : {1, 16, 17, 40}) {
      const LayerShape shape{
          .rows = rows, .columns = 61, .kept = rows % 3 * 5, .format = format, .bias = rows % 2 == 1};
      const LinearWeight weight = random_layer(random, shape);
      auto layer = PackedLinear::pack(weight, detected_isa(), pool);
      ASSERT_TRUE(layer) << layer.error().message;
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
            "linear_w8_a8__avx2_6x16 (linear_w8_a8__avx512vnni_12x32: needs avx512vnni, running avx2; "
            "linear_w8_a4__avx2_6x16: serves input of 4 bits at most, this has 8)");
}

// What a quantizer writes for one set of rows.
struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<float> scales, kept;
  std::vector<int32_t> zeros, sums;
};

Quantized quantize_with(QuantizeKernel kernel, QuantizeArgs args, int64_t m) {
  Quantized out;
  out.codes.assign(static_cast<size_t>(m * args.stride), 77);
  out.scales.assign(static_cast<size_t>(m), 77);
  out.zeros.assign(static_cast<size_t>(m), 77);
  out.sums.assign(static_cast<size_t>(m * args.groups), 77);
  out.kept.assign(static_cast<size_t>(m * args.kept_stride), 77);
  args.codes = out.codes.data();
  args.scales = out.scales.data();
  args.zeros = out.zeros.data();
  args.sums = out.sums.data();
  args.kept = out.kept.data();
  const int64_t cut = m / 2;
  for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, m}}) {
    args.m_begin = begin;
    args.m_end = end;
    kernel(args);
  }
  return out;
}

bool same_floats(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same);
}

void expect_same(const Quantized& found, const Quantized& expected, const std::string& what) {
  ASSERT_TRUE(same_floats(found.scales, expected.scales)) << what;
  ASSERT_EQ(found.zeros, expected.zeros) << what;
  ASSERT_EQ(found.codes, expected.codes) << what;
  ASSERT_EQ(found.sums, expected.sums) << what;
  ASSERT_TRUE(same_floats(found.kept, expected.kept)) << what;
}

TEST(Quantize, EveryIsaEqualsTheReference) {
  Random random(41);
  for (int i = 0; i < 3000; ++i) {
    const int64_t m = 1 + i % 5, columns = 1 + i % 131, kept_count = i % 2 == 0 ? 0 : i * 7 % (columns + 1);
    const auto x = random_rows(random, m, columns + 3, static_cast<Values>(i % kValueKinds));
    const auto kept = some_columns(random, columns, kept_count);
    const auto dense = dense_columns_of(columns, kept);
    QuantizeArgs args{};
    args.x = x.data();
    args.x_stride = columns + 3;
    args.dense_count = columns - kept_count;
    args.dense_columns = kept.empty() ? nullptr : dense.data();
    args.kept_columns = kept.data();
    args.kept_count = args.kept_stride = kept_count;
    args.bits = 2 + i % 7;
    args.asymmetric = i % 3 != 0;
    args.group_size = i % 4 == 0 ? std::min<int64_t>(args.dense_count, 1 + i % 40) : args.dense_count;
    args.groups = args.group_size == 0 ? 1 : std::max<int64_t>(1, ceil_div(args.dense_count, args.group_size));
    args.group_stride = round_up(args.group_size, 8);
    args.stride = args.groups * args.group_stride;
    const Quantized expected = quantize_with(quantize_kernel(Isa::portable), args, m);
    for (Isa isa : machine_isas())
      expect_same(quantize_with(quantize_kernel(isa), args, m), expected,
                  fmt::format("{}: case {}, {} columns, {} kept, {} bits", quantize_name(isa), i, columns, kept_count,
                              args.bits));
  }
}

// The definition once more, from the formulas of QUIK (arXiv 2310.09259) in plain arithmetic.
TEST(Quantize, FollowsTheFormulas) {
  Random random(43);
  for (int i = 0; i < 500; ++i) {
    const int bits = i % 2 == 0 ? 4 : 8;
    const auto x = random_rows(random, 1, 50, static_cast<Values>(i % 5));
    QuantizeArgs args{};
    args.x = x.data();
    args.x_stride = args.dense_count = args.group_size = 50;
    args.bits = bits;
    args.asymmetric = true;
    args.groups = 1;
    args.group_stride = args.stride = 56;
    const Quantized out = quantize_with(quantize_kernel(detected_isa()), args, 1);
    const double least = std::min(0.0f, *std::min_element(x.begin(), x.end()));
    const double greatest = std::max(0.0f, *std::max_element(x.begin(), x.end()));
    const double steps = (1 << bits) - 1;
    if (greatest == least) {
      EXPECT_FLOAT_EQ(out.scales[0], static_cast<float>(2 / steps));
      continue;
    }
    EXPECT_FLOAT_EQ(out.scales[0], static_cast<float>((greatest - least) / steps));
    int32_t sum = 0;
    for (size_t k = 0; k < x.size(); ++k) {
      const double value = out.scales[0] * (static_cast<double>(out.codes[k]) - out.zeros[0]);
      EXPECT_NEAR(value, x[k], 0.5001 * out.scales[0] + 0.5001 * out.scales[0] * (x[k] == least || x[k] == greatest))
          << "value " << k << " of case " << i;
      sum += out.codes[k];
    }
    EXPECT_EQ(out.sums[0], sum);
    for (size_t k = x.size(); k < 56; ++k) EXPECT_EQ(out.codes[k], 0);
  }
}

// A NaN must not disappear between two layers: it makes its token's outputs NaN, and no other token's.
TEST(Quantize, NanReachesTheOutputsOfItsToken) {
  for (Isa isa : machine_isas()) {
    for (int64_t at : {0, 7, 16, 36}) {
      std::vector<float> x(3 * 37, 1.0f);
      x[static_cast<size_t>(37 + at)] = std::numeric_limits<float>::quiet_NaN();
      QuantizeArgs args{};
      args.x = x.data();
      args.x_stride = args.dense_count = args.group_size = 37;
      args.bits = 8;
      args.asymmetric = true;
      args.groups = 1;
      args.group_stride = args.stride = 40;
      const Quantized out = quantize_with(quantize_kernel(isa), args, 3);
      EXPECT_TRUE(std::isnan(out.scales[1])) << quantize_name(isa) << " column " << at;
      EXPECT_TRUE(std::isfinite(out.scales[0]) && std::isfinite(out.scales[2])) << quantize_name(isa);
    }
  }
}

}  // namespace
}  // namespace nibble
