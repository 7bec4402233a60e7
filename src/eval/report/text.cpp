#include "eval/report/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace nibble::page {
namespace {

std::string with_unit(double value, double step, std::initializer_list<std::string_view> units) {
  auto unit = units.begin();
  while (value >= step * 0.99995 && unit + 1 != units.end()) {
    value /= step;
    ++unit;
  }
  return fmt::format("{}{}{}", number(value), unit->empty() ? "" : "\u00A0", *unit);
}

std::string grouped(std::string digits) {
  const size_t first = digits[0] == '-' ? 1 : 0;
  for (size_t at = digits.size(); at > first + 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

// "1.2e-6", without the zero that C writes before the 6.
std::string scientific(double value, int digits) {
  std::string text = fmt::format("{:.{}e}", value, digits - 1);
  const size_t exponent = text.find('e') + 2;
  if (text[exponent] == '0') text.erase(exponent, 1);
  return text;
}

// The value that a text of so many digits has. Unlike strtod, from_chars does not ask the host program's locale.
double rounded_to(double value, int digits) {
  const std::string text = fmt::format("{:.{}e}", value, digits - 1);
  double rounded = value;
  std::from_chars(text.data(), text.data() + text.size(), rounded);
  return rounded;
}

std::string without_trailing_zeros(std::string text) {
  if (text.find('.') == std::string::npos) return text;
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

}  // namespace

std::string number(double value, int digits) {
  if (std::isnan(value)) return "not a number";
  if (std::isinf(value)) return value > 0 ? "infinite" : "-infinite";
  if (value == 0) return "0";
  const double size = std::fabs(value);
  if (size >= 1e7 || size < 1e-4) return scientific(value, digits);
  // As rounded: 0.9996 with three digits is 1.00.
  const double rounded = rounded_to(size, digits);
  const int whole = static_cast<int>(std::floor(std::log10(rounded))) + 1;
  const std::string text = fmt::format("{:.{}f}", value, std::max(0, digits - whole));
  return rounded >= 1000 && text.find('.') == std::string::npos ? grouped(text) : text;
}

std::string exact(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return fmt::format("{}", value);
}

std::string percent(double fraction) {
  if (!std::isfinite(fraction)) return number(fraction);
  // 99.96 % must not look like a perfect 100.
  const bool close = fraction < 1 && fraction >= 0.9995;
  const double shown = close ? std::floor(fraction * 1e4) / 100 : fraction * 100;
  return without_trailing_zeros(fmt::format("{:.{}f}", shown, close ? 2 : 1)) + "\u00A0%";
}

std::string count(int64_t value) { return grouped(fmt::format("{}", value)); }

std::string bytes(int64_t value) {
  return with_unit(static_cast<double>(value), 1000, {"bytes", "kB", "MB", "GB", "TB"});
}

std::string parameters(int64_t value) {
  return with_unit(static_cast<double>(value), 1000, {"", "thousand", "million", "billion", "trillion"});
}

std::string power_of_ten(int exponent) {
  constexpr std::string_view kDigits[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  if (exponent == 0) return "1";
  if (exponent == 1) return "10";
  std::string out = exponent < 0 ? "10⁻" : "10";
  for (const char digit : fmt::format("{}", std::abs(exponent))) out += kDigits[digit - '0'];
  return out;
}

std::string coordinate(double value) { return without_trailing_zeros(fmt::format("{:.2f}", value)); }

std::string share(double fraction) { return coordinate(fraction * 100) + "%"; }

}  // namespace nibble::page
