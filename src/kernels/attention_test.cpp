#include "kernels/abi/attention.h"

#include "kernels/linear.h"
#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

// A query with its cache, stored as float32 and as float16 of the same (rounded) values.
struct Attended {
  int64_t head_dim, position;
  std::vector<float> q, keys, values, bias;
  std::vector<uint16_t> half_keys, half_values;

  Attended(Random& random, int64_t dim, int64_t last) : head_dim(dim), position(last) {
    q = random_rows(random, 1, dim, Values::normal);
    keys = random_rows(random, last + 1, dim, Values::normal);
    values = random_rows(random, last + 1, dim, Values::normal);
    bias = random_rows(random, 1, last + 1, Values::normal);
    half_keys = rounded(keys);
    half_values = rounded(values);
  }
  static std::vector<uint16_t> rounded(std::vector<float>& from) {
    std::vector<uint16_t> halves;
    for (float& value : from) {
      halves.push_back(f32_to_f16(value));
      value = f16_to_f32(halves.back());
    }
    return halves;
  }
  std::vector<float> run(AttentionKernel kernel, CacheType type, bool with_bias) const {
    std::vector<float> y(static_cast<size_t>(head_dim) + 1, 12345.0f), scores(static_cast<size_t>(position) + 17);
    AttentionArgs args{};
    args.type = type;
    args.q = q.data();
    args.keys = type == CacheType::f32 ? static_cast<const void*>(keys.data()) : half_keys.data();
    args.values = type == CacheType::f32 ? static_cast<const void*>(values.data()) : half_values.data();
    args.head_dim = head_dim;
    args.position = position;
    args.scale = 0.3f;
    args.bias = with_bias ? bias.data() : nullptr;
    args.scores = scores.data();
    args.y = y.data();
    kernel(args);
    EXPECT_EQ(y.back(), 12345.0f);
    y.pop_back();
    return y;
  }
  // Softmax written out in double precision.
  std::vector<double> oracle(bool with_bias) const {
    std::vector<double> y(static_cast<size_t>(head_dim));
    double total = 0;
    for (int64_t j = 0; j <= position; ++j) {
      double dot = 0;
      for (int64_t d = 0; d < head_dim; ++d)
        dot += static_cast<double>(q[static_cast<size_t>(d)]) * keys[static_cast<size_t>(j * head_dim + d)];
      const double p = std::exp(static_cast<double>(0.3f) * dot + (with_bias ? bias[static_cast<size_t>(j)] : 0));
      total += p;
      for (int64_t d = 0; d < head_dim; ++d)
        y[static_cast<size_t>(d)] += p * values[static_cast<size_t>(j * head_dim + d)];
    }
    for (double& value : y) value /= total;
    return y;
  }
};

TEST(Attention, EveryRowIsNearTheOracle) {
  Random random(3);
  for (int i = 0; i < 600; ++i) {
    const Attended attended(random, 1 + i % 150, i * 7 % 90);
    const bool with_bias = i % 2 == 0;
    const std::vector<double> expected = attended.oracle(with_bias);
    for (const AttentionRow* row : attention_rows(detected_isa())) {
      const auto y = attended.run(row->kernel, row->type, with_bias);
      double greatest = 0;
      for (float value : attended.values) greatest = std::max(greatest, std::abs(static_cast<double>(value)));
      for (size_t d = 0; d < y.size(); ++d)
        ASSERT_NEAR(y[d], expected[d], (row->tolerance + 2e-6) * greatest)
            << row->name << " head_dim " << attended.head_dim << " position " << attended.position << " output " << d;
    }
  }
}

TEST(Attention, DependsOnNothingBeyondItsPosition) {
  Random random(5);
  const Attended all(random, 64, 80);
  for (int64_t position : {0, 1, 7, 8, 15, 16, 33}) {
    Attended part = all;
    part.position = position;
    for (const AttentionRow* row : attention_rows(detected_isa())) {
      const auto y = part.run(row->kernel, row->type, true);
      Attended other = part;
      for (size_t k = static_cast<size_t>((position + 1) * 64); k < other.keys.size(); ++k) other.keys[k] = NAN;
      EXPECT_EQ(other.run(row->kernel, row->type, true), y) << row->name;
    }
  }
}

TEST(Attention, LargeScoresDoNotOverflow) {
  Random random(9);
  Attended attended(random, 16, 20);
  for (float& value : attended.q) value *= 1000;
  for (const AttentionRow* row : attention_rows(detected_isa()))
    for (float value : attended.run(row->kernel, row->type, false)) EXPECT_TRUE(std::isfinite(value)) << row->name;
}

TEST(Attention, NanInTheInputIsNotHidden) {
  Random random(15);
  Attended attended(random, 16, 20);
  attended.q[3] = NAN;
  for (const AttentionRow* row : attention_rows(detected_isa()))
    EXPECT_TRUE(std::isnan(attended.run(row->kernel, row->type, false)[0])) << row->name;
}

TEST(Attention, TheBestRowOfEachTypeIsChosen) {
  for (CacheType type : {CacheType::f32, CacheType::f16}) {
    EXPECT_NE(attention_kernel(type, Isa::portable), nullptr);
    if (detected_isa() > Isa::portable) {
      EXPECT_NE(attention_kernel(type, detected_isa()), attention_kernel(type, Isa::portable));
    }
  }
}

}  // namespace
}  // namespace nibble
