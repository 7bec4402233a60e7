#include "eval/verify/limits.h"

#include <gtest/gtest.h>

#include <array>
#include <optional>

#include "core/testing.h"

namespace nibble {
namespace {

// A model of one block, 8 wide: q, k, v, o have 64 weights each, up and down 128.
class Listed : public ModelSource {
 public:
  explicit Listed(std::optional<Json> quantization) : quantization_(std::move(quantization)) {
    spec_.family = "llama";
    spec_.vocabulary = 16;
    spec_.hidden = spec_.embedding = 8;
    spec_.layers = 1;
    spec_.heads = spec_.kv_heads = 2;
    spec_.head_dim = 4;
    spec_.ffn = 16;
    spec_.max_positions = 16;
    spec_.gated = false;
  }
  const Json* quantization() const override { return quantization_ ? &*quantization_ : nullptr; }
  Result<GlobalWeights> globals() const override { return fail(ErrorCode::failure, "not read"); }
  Result<BlockWeights> block(int64_t) const override { return fail(ErrorCode::failure, "not read"); }
  int64_t file_bytes() const override { return 0; }

 private:
  std::optional<Json> quantization_;
};

using Linears = std::vector<std::array<std::string, 3>>;  // role, weights, activations

Result<BitWidths> widths_of(const Linears& linears) {
  Json quantization = {{"linears", Json::object()}};
  for (const auto& [role, weights, activations] : linears)
    quantization["linears"]["blocks.0." + role] = {{"weights", weights}, {"activations", activations}};
  return bit_widths_of(Listed(quantization));
}

void expect_widths(const Linears& linears, double weights, int activations) {
  const auto found = widths_of(linears);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_DOUBLE_EQ(found->weights, weights);
  EXPECT_EQ(found->activations, activations);
}

TEST(BitWidths, OfAPlainFolder) {
  const auto found = bit_widths_of(Listed(std::nullopt));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->weights, 16);
  EXPECT_EQ(found->activations, 16);
  expect_widths({}, 16, 16);
}

TEST(BitWidths, AverageOverWeightsAndTheFewestOfActivations) {
  expect_widths({{"q", "int4:row", "f32"}}, 16 - 12 * 64.0 / 512, 16);
  expect_widths({{"up", "int4:g128:asym", "int8:token"}}, 16 - 12 * 128.0 / 512, 8);
  const Linears all = {{"q", "int4:row", "int4:token:asym"},  {"k", "int4:row", "int4:token:asym"},
                       {"v", "int4:row", "int4:token:asym"},  {"o", "int4:row", "int4:token:asym"},
                       {"up", "int4:row", "int4:token:asym"}, {"down", "int8:row", "int8:token:asym"}};
  expect_widths(all, (4 * 384 + 8 * 128) / 512.0, 4);
  EXPECT_EQ(to_string({4.75, 4}), "4.75-bit weights, 4-bit activations");
  EXPECT_EQ(to_string({16, 16}), "16-bit weights, float activations");
}

// f32 is not better than the 16 bits that a plain folder counts as.
TEST(BitWidths, FloatsOfAnyWidthAreSixteen) {
  for (const char* type : {"f32", "f16", "bf16"}) expect_widths({{"q", type, "f32"}}, 16, 16);
}

// The codes of a row say how many bits columns have that do not have them from the format.
TEST(BitWidths, OpenBitsAreThoseOfTheCodes) {
  for (const char* format : {"code:col", "int:g4:asym"}) {
    Json quantization;
    quantization["linears"]["blocks.0.q"] = {{"weights", format}, {"activations", "f32"}, {"row_bits", 20}};
    const auto found = bit_widths_of(Listed(quantization));
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_DOUBLE_EQ(found->weights, 16 - (16 - 2.5) * 64 / 512);
  }
}

TEST(BitWidths, RefusesWhatIsNoFormat) {
  testing::expect_error(widths_of({{"q", "int99:row", "f32"}}), ErrorCode::usage, "int99");
}

struct Bound {
  double weights;
  int activations;
  DivergenceLimits limits;
};

// Each row of the table of docs/evidence.md at its edge, and just below it.
TEST(DefaultLimits, EveryRowAtItsEdge) {
  const DivergenceLimits floats{0.002, 0.98, 1.01}, eight{0.05, 0.88, 1.05}, four{0.20, 0.70, 1.25},
      four_four{0.40, 0.60, 1.45}, three{0.80, 0.50, 2.00}, fewer{1.50, 0.30, 4.00};
  const Bound bounds[] = {
      {16, 16, floats}, {15.5, 16, floats},  {15.49, 16, eight}, {15.5, 15, eight},   {16, 8, eight},
      {7.5, 8, eight},  {7.5, 7, four_four}, {7.49, 8, four},    {7.49, 16, eight},   {5.5, 16, eight},
      {5.49, 16, four}, {5.5, 15, four},     {3.5, 8, four},     {3.5, 7, four_four}, {3.5, 4, four_four},
      {3.49, 4, fewer}, {3.5, 3, fewer},     {3.49, 8, three},   {2.5, 8, three},     {2.5, 16, three},
      {2.5, 7, fewer},  {2.49, 16, fewer},   {0, 1, fewer},      {16, 2, fewer},
  };
  for (const Bound& bound : bounds) {
    SCOPED_TRACE(to_string({bound.weights, bound.activations}));
    const DivergenceLimits found = default_limits({bound.weights, bound.activations});
    EXPECT_EQ(found.max_kl, bound.limits.max_kl);
    EXPECT_EQ(found.min_agreement, bound.limits.min_agreement);
    EXPECT_EQ(found.max_perplexity_ratio, bound.limits.max_perplexity_ratio);
  }
}

}  // namespace
}  // namespace nibble
