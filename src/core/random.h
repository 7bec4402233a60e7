// Small deterministic random numbers: the same on every machine, unlike the standard library's distributions.
#pragma once

#include <cmath>
#include <cstdint>

namespace nibble {

// SplitMix64 (Steele, Lea, Flood 2014): one 64-bit state, passes BigCrush.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  // Uniform in [0, n), n > 0, without modulo bias worth measuring (n < 2^32).
  uint64_t below(uint64_t n) { return static_cast<uint64_t>(static_cast<__uint128_t>(next()) * n >> 64); }
  // Uniform in [0, 1) with 24 bits.
  float uniform() { return static_cast<float>(next() >> 40) * 0x1p-24f; }
  // Standard normal, by Box and Muller.
  float normal() {
    double u = (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53;
    double v = static_cast<double>(next() >> 11) * 0x1p-53;
    return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
  }

 private:
  uint64_t state_;
};

}  // namespace nibble
