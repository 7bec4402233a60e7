#include "measure/statistics.h"

#include <algorithm>
#include <cmath>

namespace nibble {
namespace {

double at_rank(std::span<const double> ascending, double rank) {
  rank = std::clamp(rank, 0.0, static_cast<double>(ascending.size() - 1));
  const double below = std::floor(rank);
  const auto i = static_cast<size_t>(below);
  if (i + 1 == ascending.size()) return ascending[i];
  return ascending[i] + (rank - below) * (ascending[i + 1] - ascending[i]);
}

}  // namespace

Estimate estimate_mean(std::span<const double> values) {
  if (values.empty()) return {};
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (double x : values) sum += x;
  const double mean = sum / n;
  for (double x : values) squares += (x - mean) * (x - mean);
  return {mean, n > 1 ? std::sqrt(squares / (n - 1) / n) : 0};
}

Estimate estimate_quantile(std::span<const double> ascending, double q) {
  if (ascending.empty()) return {};
  const auto n = static_cast<double>(ascending.size());
  const double rank = q * (n - 1), deviation = std::sqrt(n * q * (1 - q));
  return {at_rank(ascending, rank), (at_rank(ascending, rank + deviation) - at_rank(ascending, rank - deviation)) / 2};
}

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*std::max_element(values.begin(), middle) + *middle) / 2;
}

}  // namespace nibble
