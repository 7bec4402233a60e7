#include "eval/report/scale.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "eval/report/text.h"

namespace nibble::page {
namespace {

constexpr double kLeastSpan = 0.5;  // decades: equal values lie in the middle of some axis, not on its edge
constexpr double kMargin = 0.04;    // of the span, beyond the extremes

// The step among 1, 2, 5 times a power of ten that cuts `span` into about `wanted` pieces.
double nice_step(double span, int wanted) {
  const double rough = span / wanted, power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough * 0.999) return factor * power;
  return 10 * power;
}

std::vector<double> multiples(double end, int wanted) {
  std::vector<double> out;
  if (!(end > 0) || !std::isfinite(end)) return {0};
  const double step = nice_step(end, wanted);
  for (int64_t index = 0; static_cast<double>(index) * step <= end * 1.0001; ++index)
    out.push_back(static_cast<double>(index) * step);
  return out;
}

// Few decades: 1, 2 and 5 of each.
bool wants_label(int digit, double span) { return digit == 1 || (span < 2 && (digit == 2 || digit == 5)); }

std::string label(int digit, int exponent) {
  if (exponent >= -3 && exponent <= 3) {
    const double value = digit * std::pow(10, exponent);
    return exponent < 0 ? number(value, 1) : count(std::llround(value));
  }
  return (digit == 1 ? "" : std::to_string(digit) + "·") + power_of_ten(exponent);
}

}  // namespace

LogScale::LogScale(std::span<const double> values, double least) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const double value : values) {
    if (value <= 0) zero_ = true;
    if (!(value > 0) || !std::isfinite(value)) continue;
    low = std::min(low, std::max(value, least));
    high = std::max(high, std::max(value, least));
  }
  positive_ = high > 0;
  if (!positive_) return;
  low_ = std::log10(low);
  high_ = std::log10(high);
  const double middle = (low_ + high_) / 2, half = std::max(kLeastSpan, (high_ - low_) * (1 + 2 * kMargin)) / 2;
  low_ = middle - half;
  high_ = middle + half;
}

double LogScale::at(double value) const {
  if (value <= 0) return zero_ ? base() * 0.4 : 0;
  if (!std::isfinite(value)) return 1;
  return base() + (1 - base()) * std::clamp((std::log10(value) - low_) / (high_ - low_), 0.0, 1.0);
}

double LogScale::low() const { return std::pow(10, low_); }
double LogScale::high() const { return std::pow(10, high_); }

std::vector<Tick> LogScale::ticks() const {
  std::vector<Tick> out;
  if (zero_) out.push_back({at(0), "0"});
  if (!positive_) return out;
  const double span = high_ - low_;
  const int first = static_cast<int>(std::floor(low_)), last = static_cast<int>(std::floor(high_));
  const int step = std::max(1, (last - first + 5) / 6);
  for (int exponent = first; exponent <= last; ++exponent) {
    if (exponent % step != 0) continue;
    for (int digit = 1; digit <= 9; ++digit) {
      const double place = exponent + std::log10(digit);
      if (place < low_ || place > high_ || !wants_label(digit, span)) continue;
      out.push_back({base() + (1 - base()) * (place - low_) / span, label(digit, exponent), digit != 1});
    }
  }
  return out;
}

std::vector<Tick> linear_ticks(double end, int wanted) {
  std::vector<Tick> out;
  for (const double value : multiples(end, wanted))
    out.push_back({end > 0 ? value / end : 0, count(std::llround(value)), out.size() % 2 == 1});
  return out;
}

std::vector<Tick> percent_ticks(double end, int wanted) {
  std::vector<Tick> out;
  for (const double value : multiples(end, wanted)) out.push_back({end > 0 ? value / end : 0, percent(value)});
  return out;
}

std::vector<Tick> block_ticks(int64_t blocks) {
  std::vector<Tick> out;
  const int64_t step = blocks <= 12 ? 1 : static_cast<int64_t>(nice_step(static_cast<double>(blocks), 16));
  for (int64_t block = 0; block < blocks; block += step)
    out.push_back({(static_cast<double>(block) + 0.5) / static_cast<double>(blocks), count(block),
                   out.size() % 2 == 1 && blocks > 8});
  return out;
}

}  // namespace nibble::page
