#include "format/element.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nibble {
namespace {

float minifloat_level(const Minifloat& format, int32_t code) {
  const int32_t exponent = code >> format.mantissa_bits, mantissa = code & ((1 << format.mantissa_bits) - 1);
  const auto fraction = std::ldexp(static_cast<float>(mantissa), -format.mantissa_bits);
  if (!format.leading_one) return std::ldexp(fraction, exponent - format.bias);
  if (exponent == 0) return std::ldexp(fraction, 1 - format.bias);
  return std::ldexp(1 + fraction, exponent - format.bias);
}

// OCP FP8: E4M3 reserves its greatest code for NaN; E5M2 the greatest exponent, infinity first.
float reserved_level(const Minifloat& format, int32_t code) {
  const bool infinity = format.reserved > 1 && (code & ((1 << format.mantissa_bits) - 1)) == 0;
  return infinity ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
}

// The level of a code without its sign.
float magnitude_of(const LevelsRow& row, int32_t code) {
  const int32_t most = (1 << (row.bits - 1)) - 1;
  if (row.levels == Levels::magnitude) return static_cast<float>(code);
  if (row.levels == Levels::power) return code == 0 ? 0.0f : std::ldexp(1.0f, code - most);
  return code > most - row.element.reserved ? reserved_level(row.element, code) : minifloat_level(row.element, code);
}

}  // namespace

const Element& Element::of(const NumberFormat& format) {
  static const std::vector<Element> all = [] {
    std::vector<Element> elements;
    for (const LevelsRow* row = begin_levels(); row != end_levels(); ++row) elements.emplace_back(*row);
    return elements;
  }();
  return all[format.row];
}

Element::Element(const LevelsRow& row) : bits_(row.bits) {
  const bool coded = row.levels == Levels::magnitude || row.levels == Levels::minifloat || row.levels == Levels::power;
  if (!coded) return;
  const int32_t half = 1 << (bits_ - 1);
  for (int32_t code = 0; code < 2 * half; ++code) {
    const float magnitude = magnitude_of(row, code % half);
    levels_.push_back(code < half ? magnitude : -magnitude);
  }
  add_magnitudes(row);
  if (row.levels == Levels::magnitude) {
    mantissa_bits_ = least_exponent_ = bits_ - 2;
    ties_ = Ties::away;
  } else if (row.levels == Levels::minifloat) {
    const Minifloat& format = row.element;
    mantissa_bits_ = format.mantissa_bits - int{!format.leading_one};
    first_cut_ = size_t{1} << format.mantissa_bits;
    least_exponent_ = format.leading_one ? 1 - format.bias : -1 - format.bias;
  } else {
    least_exponent_ = 2 - (1 << (bits_ - 1));  // of the least power
    ties_ = Ties::none;
  }
}

// Of several codes of one number the one of the least exponent, which is what has all its mantissa.
void Element::add_magnitudes(const LevelsRow& row) {
  const int32_t half = 1 << (bits_ - 1);
  std::vector<std::pair<float, uint8_t>> found;
  for (int32_t code = 0; code < half; ++code)
    if (std::isfinite(level(code))) found.push_back({level(code), static_cast<uint8_t>(code)});
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [magnitude, code] : found) {
    if (!magnitudes_.empty() && magnitudes_.back() == magnitude) continue;
    magnitudes_.push_back(magnitude);
    codes_.push_back(code);
  }
  constexpr float kRootOfTwo = 1.41421356f;
  for (size_t i = 0; i + 1 < magnitudes_.size(); ++i) {
    const bool geometric = row.levels == Levels::power && i > 0;
    bounds_.push_back(geometric ? magnitudes_[i] * kRootOfTwo : (magnitudes_[i] + magnitudes_[i + 1]) / 2);
  }
}

int32_t Element::encode(float x, bool cut) const {
  if (std::isnan(x)) return 0;
  const float a = std::fabs(x);
  auto place = static_cast<size_t>(std::lower_bound(bounds_.begin(), bounds_.end(), a) - bounds_.begin());
  const bool tie = place < bounds_.size() && a == bounds_[place];
  if (tie && ties_ != Ties::none && (ties_ == Ties::away || place % 2 == 1)) ++place;
  if (cut && place >= first_cut_ && place % (size_t{1} << mantissa_bits_) == 0 && a < magnitudes_[place]) --place;
  return static_cast<int32_t>(codes_[place]) | (x < 0 ? 1 << (bits_ - 1) : 0);
}

}  // namespace nibble
