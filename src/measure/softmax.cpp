#include "measure/softmax.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "measure/softmax_loops.h"

namespace nibble {
namespace {

// The loops run over eight lanes, as vectors of W of them, and are inlined into one function per instruction set, with
// W as that set has them. Vectors go by reference: how they would be passed depends on the instruction set.
#define NIBBLE_INLINE [[gnu::always_inline]] inline
#define NIBBLE_INLINE_LAMBDA __attribute__((always_inline))
constexpr size_t kLanes = 8;

// W doubles, as many integers, and floats.
struct Two {
  static constexpr size_t kWidth = 2;
  typedef double Doubles __attribute__((vector_size(16)));
  typedef int64_t Longs __attribute__((vector_size(16)));
  typedef float Floats __attribute__((vector_size(8)));
  typedef float Many __attribute__((vector_size(16)));
};
struct Four {
  static constexpr size_t kWidth = 4;
  typedef double Doubles __attribute__((vector_size(32)));
  typedef int64_t Longs __attribute__((vector_size(32)));
  typedef float Floats __attribute__((vector_size(16)));
  typedef float Many __attribute__((vector_size(32)));
};
struct Eight {
  static constexpr size_t kWidth = 8;
  typedef double Doubles __attribute__((vector_size(64)));
  typedef int64_t Longs __attribute__((vector_size(64)));
  typedef float Floats __attribute__((vector_size(32)));
  typedef float Many __attribute__((vector_size(64)));
};

// As many floats as doubles.
template <class V>
NIBBLE_INLINE void load(const float* from, typename V::Doubles& to) {
  typename V::Floats narrow;
  std::memcpy(&narrow, from, sizeof narrow);
  to = __builtin_convertvector(narrow, typename V::Doubles);
}

// x becomes e^x for x <= 0, with a relative error below 4e-16; what is below e^-708 counts as e^-708.
// x = k log 2 + r with |r| <= log 2 / 2; adding 1.5 * 2^52 rounds to the integer k and leaves it in the low bits, from
// where it is added to the exponent of the polynomial of r (Taylor's series to r^13).
template <class V>
NIBBLE_INLINE void exponentiate(typename V::Doubles& x) {
  using Longs = typename V::Longs;
  constexpr double kShift = 0x1.8p52, kLog2E = 1.4426950408889634, kLn2High = 0x1.62e42fefa38p-1,
                   kLn2Low = 0x1.ef35793c7673p-45;
  x = x < -708.0 ? typename V::Doubles{} - 708.0 : x;
  const typename V::Doubles shifted = x * kLog2E + kShift, k = shifted - kShift;
  const typename V::Doubles r = (x - k * kLn2High) - k * kLn2Low, r2 = r * r, r4 = r2 * r2;
  const typename V::Doubles low = (1 + r) + r2 * (0.5 + r * (1.0 / 6));
  const typename V::Doubles middle = (1.0 / 24 + r * (1.0 / 120)) + r2 * (1.0 / 720 + r * (1.0 / 5040));
  const typename V::Doubles high = (1.0 / 40320 + r * (1.0 / 362880)) + r2 * (1.0 / 3628800 + r * (1.0 / 39916800)) +
                                   r4 * (1.0 / 479001600 + r * (1.0 / 6227020800));
  const typename V::Doubles power = low + r4 * (middle + r4 * high);
  x = reinterpret_cast<typename V::Doubles>(reinterpret_cast<Longs>(power) + (reinterpret_cast<Longs>(shifted) << 52));
}

// Eight sums, added up in a fixed order.
template <class V>
struct Sums {
  typename V::Doubles part[kLanes / V::kWidth] = {};

  NIBBLE_INLINE double total() const {
    double lanes[kLanes];
    std::memcpy(lanes, part, sizeof lanes);
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  }
};

template <class V>
NIBBLE_INLINE float greatest_lanes(const float* x, size_t count) {
  using Many = typename V::Many;
  float greatest = x[0];
  size_t i = 0;
  if (count >= 4 * V::kWidth) {
    Many best[2], next[2];
    std::memcpy(best, x, sizeof best);
    for (i = 4 * V::kWidth; i + 4 * V::kWidth <= count; i += 4 * V::kWidth) {
      std::memcpy(next, x + i, sizeof next);
      for (size_t v = 0; v < 2; ++v) best[v] = next[v] > best[v] ? next[v] : best[v];
    }
    float lanes[4 * V::kWidth];
    std::memcpy(lanes, best, sizeof lanes);
    for (float lane : lanes) greatest = lane > greatest ? lane : greatest;
  }
  for (; i < count; ++i) greatest = x[i] > greatest ? x[i] : greatest;
  return greatest;
}

// Calls visit with every eight values of one or two rows. Behind the end of the rows stands the lowest float: its
// exponential adds nothing to a sum of at least 1, however large the logits are.
template <class Visit>
NIBBLE_INLINE void for_lanes(const float* x, const float* y, size_t count, Visit visit) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) visit(x + i, y + i);
  if (i == count) return;
  float last[2 * kLanes];
  std::fill_n(last, 2 * kLanes, std::numeric_limits<float>::lowest());
  std::memcpy(last, x + i, (count - i) * sizeof(float));
  std::memcpy(last + kLanes, y + i, (count - i) * sizeof(float));
  visit(last, last + kLanes);
}

template <class V>
NIBBLE_INLINE double exponential_sum(const float* x, size_t count, float greatest) {
  Sums<V> total;
  for_lanes(x, x, count, [&](const float* values, const float*) NIBBLE_INLINE_LAMBDA {
    for (size_t v = 0; v < kLanes / V::kWidth; ++v) {
      typename V::Doubles weight;
      load<V>(values + v * V::kWidth, weight);
      weight -= static_cast<double>(greatest);
      exponentiate<V>(weight);
      total.part[v] += weight;
    }
  });
  return total.total();
}

// With a = x - greatest of each row: log(p / q) = (a_p - a_q) + (log_sum_q - log_sum_p), whose second part is the same
// for all tokens and is left to the caller.
template <class V>
NIBBLE_INLINE double mean_difference(const float* x, const float* y, size_t count, float greatest_x, float greatest_y) {
  const double shift = static_cast<double>(greatest_x) - greatest_y;
  Sums<V> total, weighted;
  for_lanes(x, y, count, [&](const float* values, const float* others) NIBBLE_INLINE_LAMBDA {
    for (size_t v = 0; v < kLanes / V::kWidth; ++v) {
      typename V::Doubles a, b;
      load<V>(values + v * V::kWidth, a);
      load<V>(others + v * V::kWidth, b);
      typename V::Doubles weight = a - static_cast<double>(greatest_x);
      exponentiate<V>(weight);
      total.part[v] += weight;
      weighted.part[v] += weight * ((a - b) - shift);
    }
  });
  return weighted.total() / total.total();
}

#define NIBBLE_LOOPS(isa, V, target)                                                                  \
  target float greatest_##isa(const float* x, size_t count) { return greatest_lanes<V>(x, count); }   \
  target double exponential_sum_##isa(const float* x, size_t count, float greatest) {                 \
    return exponential_sum<V>(x, count, greatest);                                                    \
  }                                                                                                   \
  target double mean_difference_##isa(const float* x, const float* y, size_t count, float greatest_x, \
                                      float greatest_y) {                                             \
    return mean_difference<V>(x, y, count, greatest_x, greatest_y);                                   \
  }

NIBBLE_LOOPS(portable, Two, )
NIBBLE_LOOPS(avx2, Four, __attribute__((target("avx2"))))
NIBBLE_LOOPS(avx512, Eight, __attribute__((target("avx512f,avx512dq"))))

// In the order of Isa.
constexpr SoftmaxLoops kLoops[] = {
    {Isa::portable, greatest_portable, exponential_sum_portable, mean_difference_portable},
    {Isa::avx2, greatest_avx2, exponential_sum_avx2, mean_difference_avx2},
    {Isa::avx512vnni, greatest_avx512, exponential_sum_avx512, mean_difference_avx512}};

// Those that `isa` can run, best last.
std::span<const SoftmaxLoops> loops_of(Isa isa) {
  size_t count = 1;
  while (count < std::size(kLoops) && kLoops[count].isa <= isa) ++count;
  return std::span(kLoops).first(count);
}

const SoftmaxLoops& loops() {
  static const SoftmaxLoops& best = loops_of(selected_isa().value_or(Isa::portable)).back();
  return best;
}

}  // namespace

std::span<const SoftmaxLoops> softmax_loops() { return loops_of(detected_isa()); }

float greatest_of(std::span<const float> values) { return loops().greatest(values.data(), values.size()); }

Softmax softmax_of(std::span<const float> logits) {
  const float greatest = greatest_of(logits);
  return {greatest, std::log(loops().exponential_sum(logits.data(), logits.size(), greatest))};
}

double kl_divergence(std::span<const float> reference, const Softmax& p, std::span<const float> candidate,
                     const Softmax& q) {
  const double mean =
      loops().mean_difference(reference.data(), candidate.data(), reference.size(), p.greatest, q.greatest);
  const double kl = mean + (q.log_sum - p.log_sum);
  return kl < 0 ? 0 : kl;  // NaN, of rows that are not finite, stays NaN
}

double negative_log_likelihood(std::span<const float> logits, int32_t target) {
  return -softmax_of(logits).log_of(logits[static_cast<size_t>(target)]);
}

}  // namespace nibble
