#include "runtime/ops/ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/random.h"

namespace nibble::ops {
namespace {

std::vector<float> normalized(Norm kind, const std::vector<float>& x, int64_t m, const NormWeight& weight,
                              ThreadPool& pool) {
  Spec spec;
  spec.norm = kind;
  spec.hidden = static_cast<int64_t>(x.size()) / m;
  std::vector<float> y(x.size());
  normalize(spec, weight, x.data(), m, y.data(), detected_isa(), pool);
  return y;
}

std::vector<float> normal_values(Random& random, int64_t count, float scale = 1, float shift = 0) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = random.normal() * scale + shift;
  return values;
}

// Within `units` units in the last place of the expected value, or `floor` of zero.
void expect_close(float found, double expected, double units, double floor, const std::string& what) {
  const double unit = std::abs(expected) * std::numeric_limits<float>::epsilon();
  EXPECT_NEAR(found, expected, units * unit + floor) << what;
}

TEST(Norms, RmsNormFollowsItsFormula) {
  Random random(1);
  ThreadPool pool(2);
  for (int64_t width : {1, 7, 8, 33, 256, 4099}) {
    for (bool with_gain : {true, false}) {
      const int64_t m = 5;
      const auto x = normal_values(random, m * width, 3, 100);
      const auto gain = with_gain ? normal_values(random, width) : std::vector<float>();
      const auto y = normalized(Norm::rms, x, m, {gain, {}}, pool);
      for (size_t i = 0; i < y.size(); ++i) {
        const size_t row = i / static_cast<size_t>(width) * static_cast<size_t>(width), k = i - row;
        long double squares = 0;
        for (size_t j = 0; j < static_cast<size_t>(width); ++j)
          squares += static_cast<long double>(x[row + j]) * x[row + j];
        const long double expected =
            x[i] / std::sqrt(squares / width + 1e-5L) * (with_gain ? static_cast<long double>(gain[k]) : 1);
        expect_close(y[i], static_cast<double>(expected), 3, 0, "rms");
      }
    }
  }
}

TEST(Norms, LayerNormFollowsItsFormula) {
  Random random(2);
  ThreadPool pool(2);
  for (int64_t width : {2, 7, 64, 771}) {
    for (int options = 0; options < 4; ++options) {
      const int64_t m = 4;
      const auto x = normal_values(random, m * width, 2, 5);
      const auto gain = options & 1 ? normal_values(random, width) : std::vector<float>();
      const auto bias = options & 2 ? normal_values(random, width) : std::vector<float>();
      const auto y = normalized(Norm::layer, x, m, {gain, bias}, pool);
      for (size_t i = 0; i < y.size(); ++i) {
        const size_t row = i / static_cast<size_t>(width) * static_cast<size_t>(width), k = i - row;
        long double mean = 0, squares = 0;
        for (size_t j = 0; j < static_cast<size_t>(width); ++j) mean += x[row + j];
        mean /= width;
        for (size_t j = 0; j < static_cast<size_t>(width); ++j) squares += (x[row + j] - mean) * (x[row + j] - mean);
        long double expected = (x[i] - mean) / std::sqrt(squares / width + 1e-5L);
        if (!gain.empty()) expected *= gain[k];
        if (!bias.empty()) expected += bias[k];
        EXPECT_NEAR(y[i], static_cast<double>(expected), 2e-6) << width;
      }
    }
  }
}

TEST(Norms, InPlaceAndThreadsChangeNothing) {
  Random random(3);
  const auto x = normal_values(random, 200 * 300), gain = normal_values(random, 300);
  Spec spec;
  spec.hidden = 300;
  ThreadPool one(1), three(3);
  std::vector<float> y(x.size()), z = x;
  normalize(spec, {gain, {}}, x.data(), 200, y.data(), detected_isa(), one);
  normalize(spec, {gain, {}}, z.data(), 200, z.data(), detected_isa(), three);
  EXPECT_EQ(y, z);
}

double exact(Activation f, double x) {
  switch (f) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case Activation::relu: return x > 0 ? x : 0;
  }
  return 0;
}

constexpr Activation kAll[] = {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu};

TEST(Activations, AreAccurateEverywhere) {
  for (Activation f : kAll) {
    std::vector<float> x;
    for (float v = -120; v < 120; v += 0.00371f) x.push_back(v);
    for (float v : {0.0f, -0.0f, 1e-30f, -1e-38f, 3e38f, -3e38f}) x.push_back(v);
    auto y = x;
    activate_row(f, y.data(), nullptr, static_cast<int64_t>(y.size()), detected_isa(), y.data());
    for (size_t i = 0; i < x.size(); ++i)
      expect_close(y[i], exact(f, x[i]), 5, 1e-7, "x = " + std::to_string(x[i]) + ", f " + std::to_string(int(f)));
  }
}

TEST(Activations, KeepNan) {
  for (Activation f : kAll) {
    std::vector<float> x(9, NAN);
    activate_row(f, x.data(), nullptr, 9, detected_isa(), x.data());
    for (float v : x) EXPECT_TRUE(std::isnan(v));
  }
}

TEST(Activations, GatedIsTheProduct) {
  Random random(5);
  for (Activation f : kAll) {
    const auto gate = normal_values(random, 5003, 3), up = normal_values(random, 5003);
    auto y = up, activated = gate;
    activate_row(f, gate.data(), y.data(), 5003, detected_isa(), y.data());
    activate_row(f, activated.data(), nullptr, 5003, detected_isa(), activated.data());
    for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], activated[i] * up[i]);
  }
}

TEST(Add, AddsEveryElement) {
  Random random(6);
  ThreadPool pool(3);
  const auto x = normal_values(random, 40001), y = normal_values(random, 40001);
  auto sum = x;
  add(sum.data(), y.data(), 13, 3077, pool);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(sum[i], x[i] + y[i]);
}

}  // namespace
}  // namespace nibble::ops
