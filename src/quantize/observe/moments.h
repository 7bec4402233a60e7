// Mean and central moments of many numbers, in one pass and without cancellation: runs are summed about their own
// means and then merged (the pairwise formulas of Chan, Golub, LeVeque 1979 and Pebay 2008).
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "core/threads.h"

namespace nibble {

struct Moments {
  double count = 0, mean = 0;
  double m2 = 0, m3 = 0, m4 = 0;  // sums of (x - mean)^p over the numbers

  void merge(const Moments& other);
  // E[(x - mean)^4] / E[(x - mean)^2]^2; 3 for a normal distribution. nullopt when all numbers are equal.
  std::optional<double> kurtosis() const;
};

Moments moments_of(std::span<const float> values);

// One sample x [count][width] more: cut into runs of tokens from its beginning, merged in order, so that the result
// depends on the samples and their order only.
void observe_moments(const float* x, int64_t count, int64_t width, Moments& moments, ThreadPool& pool);

}  // namespace nibble
