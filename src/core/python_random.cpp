#include "core/python_random.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <set>
#include <span>

#include "core/result.h"

namespace nibble {
namespace {

// Fills the twister's state as Matsumoto and Nishimura initialise it by an array of words, which is how Python seeds
// it: two passes over the state, in which word 0 takes part only as the neighbour of word 1.
class SeedByArray {
 public:
  using result_type = uint32_t;
  explicit SeedByArray(std::span<const uint32_t> key) : key_(key) {}

  template <class Iterator>
  void generate(Iterator begin, Iterator end) {
    std::vector<uint32_t> state(static_cast<size_t>(end - begin));
    std::iota(state.begin(), state.end(), 0u);
    state[0] = 19650218u;
    for (size_t i = 1; i < state.size(); ++i) state[i] += 1812433253u * (state[i - 1] ^ state[i - 1] >> 30);
    size_t i = 1;
    const auto mix = [&](uint32_t factor, uint32_t added) {
      state[i] = (state[i] ^ (state[i - 1] ^ state[i - 1] >> 30) * factor) + added;
      if (++i < state.size()) return;
      state[0] = state.back();
      i = 1;
    };
    for (size_t k = 0; k < state.size(); ++k) {
      const size_t j = k % key_.size();
      mix(1664525u, key_[j] + static_cast<uint32_t>(j));
    }
    for (size_t k = 1; k < state.size(); ++k) mix(1566083941u, 0u - static_cast<uint32_t>(i));
    state[0] = 0x80000000u;
    std::copy(state.begin(), state.end(), begin);
  }

 private:
  std::span<const uint32_t> key_;
};

std::mt19937 seeded(uint64_t seed) {
  const uint32_t words[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  SeedByArray sequence(std::span(words, words[1] != 0 ? 2 : 1));
  return std::mt19937(sequence);
}

// Python samples from a shrinking list while that is smaller than the set of what was drawn, and else draws again what
// it had already. The two take other numbers from the generator. This is the size it takes for the set's.
size_t size_of_set(size_t count) {
  size_t size = 21;
  if (count <= 5) return size;
  size_t power = 4;
  while (power < count * 3) power *= 4;
  return size + power;
}

}  // namespace

PythonRandom::PythonRandom(uint64_t seed) : twister_(seeded(seed)) {}

// As many high bits of a word as the limit has, until they are below it.
uint64_t PythonRandom::below(uint64_t limit) {
  NIBBLE_CHECK(limit >= 1 && limit <= UINT32_MAX);
  const int bits = static_cast<int>(std::bit_width(limit));
  for (;;) {
    const uint32_t value = next() >> (32 - bits);
    if (value < limit) return value;
  }
}

double PythonRandom::uniform() {
  const uint32_t high = next() >> 5, low = next() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

std::vector<size_t> PythonRandom::sample(size_t population, size_t count) {
  NIBBLE_CHECK(count <= population && population <= UINT32_MAX);
  std::vector<size_t> out;
  if (population <= size_of_set(count)) {
    std::vector<size_t> left(population);
    std::iota(left.begin(), left.end(), size_t{0});
    for (size_t i = 0; i < count; ++i) {
      const size_t at = below(population - i);
      out.push_back(left[at]);
      left[at] = left[population - i - 1];
    }
    return out;
  }
  std::set<size_t> drawn;
  while (out.size() < count) {
    const size_t index = below(population);
    if (drawn.insert(index).second) out.push_back(index);
  }
  return out;
}

}  // namespace nibble
