#include "quantize/observe/moments.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/checked.h"

namespace nibble {
namespace {

// Sums go to a fixed number of partial sums in turn, which the compiler may keep in vectors.
constexpr size_t kParts = 8;
using Parts = std::array<double, kParts>;

double total(const Parts& parts) { return std::accumulate(parts.begin(), parts.end(), 0.0); }

template <class Add>
void in_turn(std::span<const float> values, const Add& add) {
  size_t i = 0;
  for (; i + kParts <= values.size(); i += kParts)
    for (size_t part = 0; part < kParts; ++part) add(part, static_cast<double>(values[i + part]));
  for (; i < values.size(); ++i) add(i % kParts, static_cast<double>(values[i]));
}

}  // namespace

void Moments::merge(const Moments& other) {
  if (other.count == 0) return;
  if (count == 0) {
    *this = other;
    return;
  }
  const double a = count, b = other.count, n = a + b, shift = other.mean - mean, part = shift / n;
  m4 += other.m4 + shift * part * part * part * a * b * (a * a - a * b + b * b) +
        6 * part * part * (a * a * other.m2 + b * b * m2) + 4 * part * (a * other.m3 - b * m3);
  m3 += other.m3 + shift * part * part * a * b * (a - b) + 3 * part * (a * other.m2 - b * m2);
  m2 += other.m2 + shift * part * a * b;
  mean += part * b;
  count = n;
}

std::optional<double> Moments::kurtosis() const {
  const double found = count * m4 / (m2 * m2);
  return m2 > 0 && std::isfinite(found) ? std::optional(found) : std::nullopt;
}

Moments moments_of(std::span<const float> values) {
  Moments out;
  if (values.empty()) return out;
  Parts sum{}, second{}, third{}, fourth{};
  in_turn(values, [&](size_t part, double x) { sum[part] += x; });
  out.count = static_cast<double>(values.size());
  out.mean = total(sum) / out.count;
  in_turn(values, [&](size_t part, double x) {
    const double d = x - out.mean, square = d * d;
    second[part] += square;
    third[part] += square * d;
    fourth[part] += square * square;
  });
  out.m2 = total(second);
  out.m3 = total(third);
  out.m4 = total(fourth);
  return out;
}

void observe_moments(const float* x, int64_t count, int64_t width, Moments& moments, ThreadPool& pool) {
  constexpr int64_t kRun = 16;
  std::vector<Moments> runs(static_cast<size_t>(ceil_div(count, kRun)));
  pool.run(static_cast<int64_t>(runs.size()), [&](int64_t run) {
    const int64_t tokens = std::min(kRun, count - run * kRun);
    runs[static_cast<size_t>(run)] = moments_of({x + run * kRun * width, static_cast<size_t>(tokens * width)});
  });
  for (const Moments& run : runs) moments.merge(run);
}

}  // namespace nibble
