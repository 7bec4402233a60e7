#include "core/python_random.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

using Indices = std::vector<size_t>;

// Printed by CPython 3.11.
TEST(PythonRandom, DrawsWhatPythonDraws) {
  PythonRandom words(0);
  for (uint32_t expected : {3626764237u, 1654615998u, 3255389356u, 3823568514u, 1806341205u})
    EXPECT_EQ(words.next(), expected);
  uint32_t last = 0;
  for (int i = 0; i < 2000; ++i) last = words.next();  // past several refills
  EXPECT_EQ(last, 3344137717u);
  PythonRandom random(0);
  for (uint64_t expected : {25247, 27562, 2653, 16968, 33506, 31845, 26537, 19877, 31234, 23465})
    EXPECT_EQ(random.below(45576), expected);
  const std::pair<uint64_t, uint64_t> draws[] = {
      {0, 0}, {1, 0}, {2, 1}, {3, 1}, {7, 1}, {8, 4}, {100, 68}, {2147483647, 631194409}, {2147483648, 1332073689}};
  for (const auto& [most, expected] : draws) EXPECT_EQ(random.below(most + 1), expected);
  PythonRandom other(1234567);
  for (uint64_t expected : {986, 443, 241, 69, 595, 325, 232, 72}) EXPECT_EQ(other.below(1000), expected);
}

// What Python 3.11's random.Random(seed).sample(range(population), count) gives, one call after the other.
TEST(PythonRandom, SamplesAsPythonDoes) {
  PythonRandom random(1234);
  EXPECT_EQ(random.sample(10, 3), (Indices{7, 1, 0}));
  EXPECT_EQ(random.sample(500, 4), (Indices{46, 466, 482, 480}));
  EXPECT_EQ(random.sample(90, 7), (Indices{74, 4, 85, 88, 10, 12, 45}));
  EXPECT_EQ(random.sample(10042, 6), (Indices{3879, 285, 504, 259, 5670, 7933}));
  EXPECT_EQ(random.sample(21, 21), (Indices{19, 14, 4, 2, 5, 3, 13, 0, 8, 7, 15, 1, 12, 11, 20, 18, 6, 16, 9, 10, 17}));
  PythonRandom zero(0), large((uint64_t{1} << 40) + 7);
  EXPECT_EQ(zero.sample(10, 3), (Indices{6, 9, 0}));
  EXPECT_EQ(large.sample(10, 3), (Indices{9, 7, 4}));
  EXPECT_EQ(large.sample(500, 4), (Indices{485, 315, 64, 264}));
}

TEST(PythonRandom, UniformAsPythonDoes) {
  PythonRandom random(3);
  EXPECT_EQ(random.uniform(), 0.23796462709189137);
  EXPECT_EQ(random.uniform(), 0.5442292252959519);
  EXPECT_EQ(random.uniform(), 0.36995516654807925);
}

}  // namespace
}  // namespace nibble
