// What solvers do most: every instruction set against the reference, bit for bit, and products against the triple loop.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/product.h"
#include "kernels/testing.h"

namespace nibble {
namespace {

using namespace nibble::testing;

template <class T>
std::vector<T> random_values(Random& random, int64_t count) {
  std::vector<T> out(static_cast<size_t>(count));
  for (T& value : out) value = static_cast<T>(random.normal());
  return out;
}

template <class T>
void expect_the_triple_loop(int64_t rows, int64_t columns, int64_t depth, Random& random) {
  const auto a = random_values<T>(random, rows * depth), b = random_values<T>(random, depth * columns);
  const auto before = random_values<T>(random, rows * columns);
  std::vector<T> expected = before;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t k = 0; k < depth; ++k) {
        T& c = expected[static_cast<size_t>(i * columns + j)];
        c = std::fma(-a[static_cast<size_t>(i * depth + k)], b[static_cast<size_t>(k * columns + j)], c);
      }
  for (Isa isa : machine_isas()) {
    const ProductTile<T>& tile = tile_of<T>(solve_kernels(isa));
    AlignedBuffer<T> left(left_size(tile, rows, depth) + 1), right(right_size(tile, columns, depth) + 1);
    pack_left(
        tile, rows, depth, T{-1}, [&](int64_t i) { return a.data() + i * depth; }, left.data());
    pack_right(
        tile, columns, depth, depth, [&](int64_t k) { return b.data() + k * columns; }, right.data());
    std::vector<T> c = before;
    add_product(tile, PackedLeft<T>::of(left.data(), depth, tile), right.data(), depth * tile.columns, c.data(),
                columns, rows, columns, depth);
    ASSERT_EQ(c, expected) << to_string(isa) << " " << rows << "x" << columns << "x" << depth;
  }
}

TEST(Product, OfEveryIsaMatchesTheTripleLoopBitForBit) {
  Random random(1);
  for (int64_t rows : {1, 3, 8, 17})
    for (int64_t columns : {1, 8, 13, 48, 61})
      for (int64_t depth : {0, 1, 5, 128, 200}) {
        expect_the_triple_loop<float>(rows, columns, depth, random);
        expect_the_triple_loop<double>(rows, columns, depth, random);
      }
}

TEST(Widen, AddsInDouble) {
  Random random(2);
  for (int64_t count : {0, 1, 7, 8, 48, 51}) {
    const auto from = random_values<float>(random, count);
    const auto before = random_values<double>(random, count);
    for (Isa isa : machine_isas()) {
      auto to = before;
      solve_kernels(isa).widen({from.data(), to.data(), count});
      for (size_t i = 0; i < to.size(); ++i) ASSERT_EQ(to[i], before[i] + static_cast<double>(from[i]));
    }
  }
}

TEST(AddScaled, IsFused) {
  Random random(4);
  for (int64_t count : {0, 1, 3, 4, 8, 31}) {
    const auto from = random_values<double>(random, count), before = random_values<double>(random, count);
    for (Isa isa : machine_isas()) {
      auto to = before;
      solve_kernels(isa).add_scaled({-0.7, from.data(), to.data(), count});
      for (size_t i = 0; i < to.size(); ++i) ASSERT_EQ(to[i], std::fma(-0.7, from[i], before[i])) << to_string(isa);
    }
  }
}

TEST(Cost, IsThePowerOfTheDistanceOnEveryIsa) {
  Random random(3);
  for (int i = 0; i < 400; ++i) {
    const int64_t count = i % 131;
    auto values = random_values<float>(random, count);
    if (count > 5) values[2] = 0, values[4] = 30;
    const float scale = 0.05f + 0.3f * random.uniform(), norm = i % 4 == 0 ? 2.0f : 0.5f + 4 * random.uniform();
    const CostArgs args{values.data(), count, 1 / scale, -8.0f + static_cast<float>(i % 9), 7, norm};
    double expected = 0;
    for (const float value : values) {
      const double q = static_cast<double>(value * args.inverse);
      const double level = std::nearbyint(std::clamp(q, static_cast<double>(args.least), 7.0));
      expected += std::pow(std::fabs(q - level), static_cast<double>(norm));
    }
    const float found = solve_kernels(Isa::portable).cost(args);
    EXPECT_NEAR(found, expected, 2e-5 * expected) << "case " << i;
    for (Isa isa : machine_isas()) ASSERT_TRUE(same(solve_kernels(isa).cost(args), found)) << to_string(isa) << i;
  }
}

}  // namespace
}  // namespace nibble
