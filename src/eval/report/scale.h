// Axes: from values to places, and the places that get a label.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nibble::page {

struct Tick {
  double at = 0;  // 0..1 along the axis
  std::string text;
  bool minor = false;  // may be left out where there is little room
};

// A logarithmic axis over what is positive and finite among the values. Zero has a place of its own at the low end
// when it occurs; what is beyond the ends (infinite, not a number: beyond the high one) is drawn at them.
class LogScale {
 public:
  // `least`: values below count as it, so that noise near zero does not stretch the axis.
  explicit LogScale(std::span<const double> values, double least = 0);

  double at(double value) const;  // 0..1, upward
  bool has_zero() const { return zero_; }
  double low() const;  // ends of the range of positive values
  double high() const;
  // Where the positive values begin: 0, or above the place of zero.
  double base() const { return zero_ ? kZeroBand : 0; }
  std::vector<Tick> ticks() const;

 private:
  static constexpr double kZeroBand = 0.12;
  double low_ = -3, high_ = 0;  // decimal logarithms
  bool zero_ = false, positive_ = false;
};

// 0, 2000, 4000 .. for an axis from 0 to `end`; about `wanted` of them.
std::vector<Tick> linear_ticks(double end, int wanted);
// The same as percentages, for fractions.
std::vector<Tick> percent_ticks(double end, int wanted);
// Numbers of blocks, each under the middle of its column.
std::vector<Tick> block_ticks(int64_t blocks);

}  // namespace nibble::page
