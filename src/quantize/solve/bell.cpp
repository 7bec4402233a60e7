#include "quantize/solve/bell.h"

#include <algorithm>
#include <cmath>

namespace nibble {
namespace {

struct Magnitude {
  double value, weight;
};

// Of magnitudes: how many, and their sum, both weighted.
struct Part {
  double mass = 0, moment = 0;
  double mean() const { return mass > 0 ? moment / mass : 0; }
  // What their mean takes off the sum of w x^2.
  double explained() const { return mass > 0 ? moment * moment / mass : 0; }
};

void fit(std::span<const float> values, std::span<const float> weights, std::span<float> levels) {
  const bool none = std::all_of(weights.begin(), weights.end(), [](float w) { return w == 0; });
  std::vector<Magnitude> sorted;
  Part far;
  for (size_t i = 0; i < values.size(); ++i) {
    const double weight = none ? 1 : static_cast<double>(weights[i]), value = std::fabs(static_cast<double>(values[i]));
    if (weight == 0) continue;
    sorted.push_back({value, weight});
    far.mass += weight;
    far.moment += weight * value;
  }
  std::sort(sorted.begin(), sorted.end(), [](const Magnitude& a, const Magnitude& b) { return a.value < b.value; });
  Part near;
  double a = far.mean(), b = a, most = far.explained();
  for (const Magnitude& next : sorted) {
    near.mass += next.weight;
    near.moment += next.weight * next.value;
    far.mass -= next.weight;
    far.moment -= next.weight * next.value;
    if (&next == &sorted.back() || near.explained() + far.explained() <= most) continue;
    most = near.explained() + far.explained();
    a = near.mean();
    b = far.mean();
  }
  size_t i = 0;
  for (const double level : {-b, -a, a, b}) levels[i++] = static_cast<float>(level) + 0.0f;
}

}  // namespace

LevelFit make_bell() { return fit; }

}  // namespace nibble
