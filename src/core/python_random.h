// The random numbers of Python's `random` module: a seed draws here what it draws in evaluation scripts written there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace nibble {

class PythonRandom {
 public:
  explicit PythonRandom(uint64_t seed);  // random.seed(seed)

  uint32_t next() { return static_cast<uint32_t>(twister_()); }  // random.getrandbits(32)
  // random.randrange(limit) and random.randint(0, limit - 1); 1 <= limit < 2^32.
  uint64_t below(uint64_t limit);
  // random.random(): uniform in [0, 1), 53 bits.
  double uniform();
  // random.sample(range(population), count): distinct indices in the order drawn. count <= population < 2^32.
  std::vector<size_t> sample(size_t population, size_t count);

 private:
  std::mt19937 twister_;
};

}  // namespace nibble
