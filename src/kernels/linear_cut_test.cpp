// How linear() cuts the tokens of a long prompt into tasks: every token gets the bits that it gets alone. Input that
// fits one task, as in all other tests, is not cut.
#include <algorithm>

#include "kernels/linear.h"
#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

constexpr int64_t kRows = 75, kColumns = 2048;  // five panels, which are more than one task
constexpr int64_t kTexts = 97;                  // different tokens, which come again and again; no cut is a multiple

// Everything that a task does for its tokens, in all orders: kept columns before the dense part and on top of a scaled
// one, single weights, the scale, and the kernels of every form of input.
const LayerShape kShapes[] = {
    {.kept = 5, .format = "int4:g32", .activations = "int8:token:asym", .bias = true},
    {.kept = 37, .format = "int4:asym", .activations = "int4:token:asym", .bias = true, .kept_levels = Levels::bf16},
    {.format = "int8:g128:asym", .activations = "int8:token"},
    {.kept = 6, .format = "int8", .activations = "f32", .bias = true},
    {.format = "f32", .activations = "f32", .bias = true},
    {.kept = 16, .format = "f16", .activations = "f32", .kept_levels = Levels::bf16},
    {.kept = 9, .format = "bf16", .activations = "bf16", .bias = true, .kept_levels = Levels::bf16},
    {.kept = 8, .format = "code3:row", .activations = "f32", .bias = true, .sparse_part = true},
    {.format = "code4:col", .activations = "bf16", .bias = true, .sparse_part = true},
    {.kept = 4, .format = "code:col", .activations = "int8:token:asym", .bias = true, .sparse_part = true},
    {.kept = 3, .format = "nvfp4", .activations = "f32", .bias = true},
    {.format = "nvfp4", .activations = "bf16", .bias = true},
    {.kept = 7, .format = "bfp4:b16", .activations = "bfp4:b16", .bias = true},
};

class LinearCut : public ::testing::TestWithParam<LayerShape> {
 protected:
  void SetUp() override {
    shape_ = GetParam();
    shape_.rows = kRows;
    shape_.columns = kColumns;
    Random random(47);
    weight_ = format_of(shape_.format).is_block() ? block_layer(random, shape_) : random_layer(random, shape_);
    x_ = random_rows(random, kTexts, kColumns, Values::outliers);
  }

  void prepare_tokens(const PackedLinear& layer, int64_t first, int64_t count, Isa isa, PreparedInput& input,
                      ThreadPool& pool) const {
    const auto row = [&](int64_t i, float*) { return x_.data() + (first + i) % kTexts * kColumns; };
    prepare(layer.plan(), row, count, isa, input, pool);
  }

  // [kTexts][kRows]
  std::vector<float> outputs_alone(const PackedLinear& layer, Isa isa) const {
    ThreadPool pool(1);
    PreparedInput input;
    std::vector<float> y(kTexts * kRows);
    for (int64_t text = 0; text < kTexts; ++text) {
      prepare_tokens(layer, text, 1, isa, input, pool);
      linear(layer, input, y.data() + text * kRows, kRows, pool);
    }
    return y;
  }

  // Tokens whose input makes at least three tasks.
  int64_t tokens_for(const PackedLinear& layer, Isa isa) const {
    ThreadPool pool(1);
    PreparedInput input;
    prepare_tokens(layer, 0, kTexts, isa, input, pool);
    const int64_t bytes = input.x == nullptr ? input.stride : input.x_stride * static_cast<int64_t>(sizeof(float));
    const int64_t block = layer.row_for(kTexts).traits.block_k;
    return 5 * kTaskInputBytes / 2 / (block == 0 ? bytes : bytes * block / kColumns);
  }

  LayerShape shape_;
  LinearWeight weight_;
  std::vector<float> x_;
};

TEST_P(LinearCut, EveryTokenIsTheSameAlone) {
  for (Isa isa : machine_isas()) {
    if (isa == Isa::portable && detected_isa() > isa) continue;  // slow, and nothing is cut otherwise
    SCOPED_TRACE(to_string(isa));
    ThreadPool packing(1);
    const PackedLinear layer = PackedLinear::pack(weight_, isa, packing).value();
    const std::vector<float> alone = outputs_alone(layer, isa);
    const int64_t m = tokens_for(layer, isa), stride = kRows + 1;
    for (int threads : {1, 2, 4}) {
      ThreadPool pool(threads);
      PreparedInput input;
      prepare_tokens(layer, 0, m, isa, input, pool);
      constexpr float kUntouched = 12345, kBefore = 0.5f;
      std::vector<float> y(static_cast<size_t>(m * stride), kUntouched), added = y;
      std::vector<float> sum(static_cast<size_t>(m * stride), kBefore);
      const LinearOutput outputs[] = {{&layer, y.data(), stride}, {&layer, added.data(), stride, sum.data()}};
      linear(outputs, input, pool);
      for (int64_t token = 0; token < m; ++token)
        for (int64_t n = 0; n < stride; ++n) {
          const auto at = static_cast<size_t>(token * stride + n);
          const float expected = n < kRows ? alone[static_cast<size_t>(token % kTexts * kRows + n)] : kUntouched;
          ASSERT_TRUE(same(y[at], expected) && same(added[at], expected))
              << threads << " threads, token " << token << " of " << m << ", output " << n << " is " << y[at] << " and "
              << added[at] << ", alone " << expected;
          ASSERT_TRUE(same(sum[at], n < kRows ? kBefore + expected : kBefore))
              << threads << " threads, token " << token << " of " << m << ", output " << n << " adds up to " << sum[at];
        }
    }
  }
}

std::string name_of_case(const ::testing::TestParamInfo<LayerShape>& test) {
  std::string name = test.param.format + "_" + test.param.activations;
  std::replace(name.begin(), name.end(), ':', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Kinds, LinearCut, ::testing::ValuesIn(kShapes), name_of_case);

}  // namespace
}  // namespace nibble
