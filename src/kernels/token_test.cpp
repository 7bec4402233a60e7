// The kernels that work on a token's row: every instruction set against the reference, bit for bit, and the reference
// against plain formulas (of norms and activation functions: runtime/ops/ops_test.cpp).
#include "kernels/abi/token.h"

#include <algorithm>
#include <bit>

#include "kernels/input.h"
#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

bool same_floats(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same);
}

// Widths around the sizes of registers and of unrolled loops.
constexpr int64_t kWidths[] = {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 131, 257};

TEST(Norm, EveryIsaEqualsTheReference) {
  Random random(3);
  for (int64_t width : kWidths) {
    for (int kind = 0; kind < kValueKinds; ++kind) {
      const auto x = random_rows(random, 1, width, static_cast<Values>(kind));
      const auto gain = random_rows(random, 1, width, Values::normal);
      const auto bias = random_rows(random, 1, width, Values::normal);
      for (int options = 0; options < 8; ++options) {
        const auto run = [&](Isa isa) {
          std::vector<float> y(x.size() + 1, 77);
          token_kernels(isa).norm({x.data(), width, (options & 1) != 0, options & 2 ? gain.data() : nullptr,
                                   options & 4 ? bias.data() : nullptr, 1e-5, y.data()});
          return y;
        };
        const auto expected = run(Isa::portable);
        EXPECT_EQ(expected.back(), 77);
        for (Isa isa : machine_isas())
          ASSERT_TRUE(same_floats(run(isa), expected)) << to_string(isa) << ", width " << width << ", " << options;
      }
    }
  }
}

TEST(Activate, EveryIsaEqualsTheReference) {
  Random random(5);
  std::vector<float> x;
  for (float v = -100; v < 100; v += 0.0937f) x.push_back(v);
  for (float v : {0.0f, -0.0f, NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-40f}) x.push_back(v);
  for (int i = 0; i < 1000; ++i) x.push_back(3 * random.normal());
  const auto count = static_cast<int64_t>(x.size());
  const auto factor = random_rows(random, 1, count, Values::normal);
  for (Function function : {Function::silu, Function::gelu, Function::gelu_tanh, Function::relu}) {
    for (bool gated : {false, true}) {
      const auto run = [&](Isa isa) {
        std::vector<float> y = x;
        token_kernels(isa).activate({function, y.data(), gated ? factor.data() : nullptr, y.data(), count});
        return y;
      };
      const auto expected = run(Isa::portable);
      for (Isa isa : machine_isas()) {
        const auto found = run(isa);
        for (size_t i = 0; i < x.size(); ++i)
          ASSERT_TRUE(same(found[i], expected[i])) << to_string(isa) << ", function " << int(function) << " of " << x[i]
                                                   << " is " << found[i] << ", not " << expected[i];
      }
    }
  }
}

TEST(Split, SeparatesKeptColumnsInOrder) {
  Random random(9);
  for (int i = 0; i < 600; ++i) {
    const int64_t columns = i % 199, count = i % 3 == 0 ? columns / 16 : i * 7 % (columns + 1);
    const auto x = random_rows(random, 1, columns, static_cast<Values>(i % kValueKinds));
    const auto kept = some_columns(random, columns, count);
    std::vector<float> expected_kept, expected_dense;
    for (int32_t column : kept) expected_kept.push_back(x[static_cast<size_t>(column)]);
    for (int32_t column : dense_columns_of(columns, kept)) expected_dense.push_back(x[static_cast<size_t>(column)]);
    for (Isa isa : machine_isas()) {
      std::vector<float> dense(static_cast<size_t>(columns - count + kSplitRoom)), found(kept.size());
      token_kernels(isa).split({x.data(), columns, kept.data(), count, dense.data(), found.data()});
      dense.resize(expected_dense.size());
      ASSERT_TRUE(same_floats(dense, expected_dense)) << to_string(isa) << " case " << i;
      ASSERT_TRUE(same_floats(found, expected_kept)) << to_string(isa) << " case " << i;
    }
  }
}

// Against the matrix itself, and every instruction set against the reference.
TEST(Rotate, IsTheBlockwiseHadamardMatrix) {
  Random random(10);
  for (int64_t width : kWidths)
    for (int64_t block : {2, 4, 8, 16, 32, 64, 256})
      for (int kind = 0; kind < kValueKinds; ++kind) {
        const auto x = random_rows(random, 1, width, static_cast<Values>(kind));
        const auto run = [&](Isa isa, bool in_place) {
          std::vector<float> y = x;
          y.push_back(77);
          token_kernels(isa).rotate({in_place ? y.data() : x.data(), width, block, y.data()});
          return y;
        };
        const auto expected = run(Isa::portable, false);
        ASSERT_EQ(expected.back(), 77);
        for (Isa isa : machine_isas())
          for (bool in_place : {false, true})
            ASSERT_TRUE(same_floats(run(isa, in_place), expected)) << to_string(isa) << " " << width << " " << block;
        if (static_cast<Values>(kind) == Values::hostile) continue;
        int64_t begin = 0;
        for (int64_t size = block; begin < width; begin += size) {
          while (size > width - begin) size /= 2;
          for (int64_t i = 0; i < size; ++i) {
            double sum = 0, most = 0;
            for (int64_t j = 0; j < size; ++j) {
              const auto value = static_cast<double>(x[static_cast<size_t>(begin + j)]);
              sum += std::popcount(static_cast<uint64_t>(i & j)) % 2 == 0 ? value : -value;
              most += std::abs(value);
            }
            ASSERT_NEAR(expected[static_cast<size_t>(begin + i)], sum / std::sqrt(static_cast<double>(size)),
                        1e-6 * most)
                << width << " " << block << " " << begin + i;
          }
        }
      }
}

// However the rows reach prepare(), and for any number of threads: the same input.
TEST(Prepare, RowsMayBeMadeWhereTheyAreUsed) {
  Random random(11);
  for (const char* activations : {"int8:token:asym", "f32"}) {
    for (int64_t kept : {0, 5}) {
      for (int64_t m : {1, 2, 29}) {
        const int64_t columns = 192;
        InputPlan plan;
        plan.activations = format_of(activations);
        plan.columns = columns;
        plan.kept_columns = some_columns(random, columns, kept);
        plan.group_size = plan.dense_count();
        plan.group_stride = round_up(plan.group_size, 8);
        const auto x = random_rows(random, m, columns, Values::normal);
        PreparedInput there, made;
        ThreadPool one(1), three(3);
        prepare(plan, x.data(), columns, m, detected_isa(), there, one);
        prepare(
            plan,
            [&](int64_t i, float* room) {
              std::copy_n(x.begin() + i * columns, columns, room);
              return room;
            },
            m, detected_isa(), made, three);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t c = 0; c < kept; ++c) {
            const float expected = x[static_cast<size_t>(i * columns + plan.kept_columns[static_cast<size_t>(c)])];
            ASSERT_EQ(made.kept[i * made.kept_stride + c], expected);
            ASSERT_EQ(there.kept[i * there.kept_stride + c], expected);
          }
          for (int64_t k = 0; k < plan.dense_count(); ++k) {
            if (plan.activations.is_integer()) {
              ASSERT_EQ(made.codes[i * made.stride + k], there.codes[i * there.stride + k]);
            } else {
              ASSERT_EQ(made.x[i * made.x_stride + k], there.x[i * there.x_stride + k]);
            }
          }
        }
      }
    }
  }
}

// What a quantizer writes for one set of rows.
struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> zeros, sums;
};

Quantized quantize_with(QuantizeKernel kernel, QuantizeArgs args, int64_t m) {
  Quantized out;
  out.codes.assign(static_cast<size_t>(m * args.stride), 77);
  out.scales.assign(static_cast<size_t>(m), 77);
  out.zeros.assign(static_cast<size_t>(m), 77);
  out.sums.assign(static_cast<size_t>(m * args.groups), 77);
  args.codes = out.codes.data();
  args.scales = out.scales.data();
  args.zeros = out.zeros.data();
  args.sums = out.sums.data();
  args.sum_stride = m;
  const int64_t cut = m / 2;
  for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, m}}) {
    args.m_begin = begin;
    args.m_end = end;
    kernel(args);
  }
  return out;
}

void expect_same(const Quantized& found, const Quantized& expected, const std::string& what) {
  ASSERT_TRUE(same_floats(found.scales, expected.scales)) << what;
  ASSERT_EQ(found.zeros, expected.zeros) << what;
  ASSERT_EQ(found.codes, expected.codes) << what;
  ASSERT_EQ(found.sums, expected.sums) << what;
}

TEST(Quantize, EveryIsaEqualsTheReference) {
  Random random(41);
  for (int i = 0; i < 3000; ++i) {
    const int64_t m = 1 + i % 5, columns = i % 231;
    const auto x = random_rows(random, m, columns + 3, static_cast<Values>(i % kValueKinds));
    QuantizeArgs args{};
    args.x = x.data();
    args.x_stride = columns + 3;
    args.columns = columns;
    args.bits = 2 + i % 7;
    args.asymmetric = i % 3 != 0;
    args.group_size = i % 4 == 0 ? std::min<int64_t>(columns, 1 + i % 150) : columns;
    args.groups = args.group_size == 0 ? 1 : std::max<int64_t>(1, ceil_div(columns, args.group_size));
    args.group_stride = round_up(args.group_size, 8);
    args.stride = args.groups * args.group_stride;
    const Quantized expected = quantize_with(token_kernels(Isa::portable).quantize, args, m);
    for (Isa isa : machine_isas())
      expect_same(quantize_with(token_kernels(isa).quantize, args, m), expected,
                  fmt::format("{}: case {}, {} columns, {} bits", token_kernels(isa).isa, i, columns, args.bits));
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
    args.x_stride = args.columns = args.group_size = 50;
    args.bits = bits;
    args.asymmetric = true;
    args.groups = 1;
    args.group_stride = args.stride = 56;
    const Quantized out = quantize_with(token_kernels(detected_isa()).quantize, args, 1);
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
      args.x_stride = args.columns = args.group_size = 37;
      args.bits = 8;
      args.asymmetric = true;
      args.groups = 1;
      args.group_stride = args.stride = 40;
      const Quantized out = quantize_with(token_kernels(isa).quantize, args, 3);
      EXPECT_TRUE(std::isnan(out.scales[1])) << token_kernels(isa).isa << " column " << at;
      EXPECT_TRUE(std::isfinite(out.scales[0]) && std::isfinite(out.scales[2])) << token_kernels(isa).isa;
    }
  }
}

}  // namespace
}  // namespace nibble
