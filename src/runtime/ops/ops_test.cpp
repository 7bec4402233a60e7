#include "runtime/ops/ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/random.h"

namespace nibble::ops {
namespace {

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
      std::vector<float> y(x.size());
      rms_norm(x.data(), m, width, gain, 1e-5, y.data(), pool);
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
      std::vector<float> y(x.size());
      layer_norm(x.data(), m, width, gain, bias, 1e-5, y.data(), pool);
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
  ThreadPool one(1), three(3);
  std::vector<float> y(x.size()), z = x;
  rms_norm(x.data(), 200, 300, gain, 1e-6, y.data(), one);
  rms_norm(z.data(), 200, 300, gain, 1e-6, z.data(), three);
  EXPECT_EQ(y, z);
}

TEST(Rotary, TurnsPairsOfHalves) {
  Random random(4);
  ThreadPool pool(2);
  const int64_t m = 3, heads = 2, dim = 6, stride = 15;
  const std::vector<int64_t> positions = {4, 0, 9};
  std::vector<float> cosine, sine;
  for (int64_t position = 0; position < 10; ++position)
    for (int64_t i = 0; i < dim / 2; ++i) {
      const double angle = static_cast<double>(position) * std::pow(100.0, -static_cast<double>(i) / 3);
      cosine.push_back(static_cast<float>(std::cos(angle)));
      sine.push_back(static_cast<float>(std::sin(angle)));
    }
  const auto before = normal_values(random, m * stride);
  auto x = before;
  rotary(x.data(), m, stride, heads, dim, positions, cosine.data(), sine.data(), pool);
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t i = 0; i < dim / 2; ++i) {
        const auto at = static_cast<size_t>(row * stride + head * dim + i), other = at + dim / 2;
        const double angle =
            static_cast<double>(positions[static_cast<size_t>(row)]) * std::pow(100.0, -static_cast<double>(i) / 3);
        EXPECT_NEAR(x[at], before[at] * std::cos(angle) - before[other] * std::sin(angle), 1e-6);
        EXPECT_NEAR(x[other], before[other] * std::cos(angle) + before[at] * std::sin(angle), 1e-6);
      }
    }
    for (int64_t i = heads * dim; i < stride; ++i)
      EXPECT_EQ(x[static_cast<size_t>(row * stride + i)], before[static_cast<size_t>(row * stride + i)]);
  }
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
  ThreadPool pool(2);
  for (Activation f : kAll) {
    std::vector<float> x;
    for (float v = -120; v < 120; v += 0.00371f) x.push_back(v);
    for (float v : {0.0f, -0.0f, 1e-30f, -1e-38f, 3e38f, -3e38f}) x.push_back(v);
    auto y = x;
    activate(f, y.data(), static_cast<int64_t>(y.size()), pool);
    for (size_t i = 0; i < x.size(); ++i)
      expect_close(y[i], exact(f, x[i]), 5, 1e-7, "x = " + std::to_string(x[i]) + ", f " + std::to_string(int(f)));
  }
}

TEST(Activations, KeepNan) {
  ThreadPool pool(1);
  for (Activation f : kAll) {
    std::vector<float> x(9, NAN);
    activate(f, x.data(), 9, pool);
    for (float v : x) EXPECT_TRUE(std::isnan(v));
  }
}

TEST(Activations, GatedIsTheProduct) {
  Random random(5);
  ThreadPool one(1), three(3);
  for (Activation f : kAll) {
    const auto gate = normal_values(random, 50000, 3), up = normal_values(random, 50000);
    auto y = up, activated = gate;
    activate_gated(f, gate.data(), y.data(), y.data(), 50000, three);
    activate(f, activated.data(), 50000, one);
    for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], activated[i] * up[i]);
  }
}

TEST(Add, AddsEveryElement) {
  Random random(6);
  ThreadPool pool(3);
  const auto x = normal_values(random, 40001), y = normal_values(random, 40001);
  auto sum = x;
  add(sum.data(), y.data(), 40001, pool);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(sum[i], x[i] + y[i]);
}

}  // namespace
}  // namespace nibble::ops
