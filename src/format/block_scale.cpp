#include "format/block_scale.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace nibble {
namespace {

constexpr uint32_t kFraction = (1u << 23) - 1;
constexpr float kMostScale = 448, kLeastScale = 0x1p-9f;  // of E4M3

uint32_t fraction_of(float x) { return std::bit_cast<uint32_t>(x) & kFraction; }

// Whether levels are integers, and the greatest of all levels.
bool has_element(const NumberFormat& format) { return format.levels != Levels::integer; }
float greatest_level(const NumberFormat& format) {
  if (has_element(format)) return Element::of(format).greatest();
  return static_cast<float>((1 << (format.bits - 1)) - 1);
}

// Bits of mantissa that the greatest levels have.
int top_mantissa(const NumberFormat& format) {
  return has_element(format) ? Element::of(format).mantissa_bits() : format.bits - 2;
}

// A positive scale rounded to E4M3, as the encoder of those elements rounds.
float to_e4m3(float scale) {
  static const NumberFormat codec = *parse_format("fp8e4m3");
  const Element& element = Element::of(codec);
  return element.level(element.encode(std::clamp(scale, kLeastScale, kMostScale)));
}

float ratio_scale(float absmax, float level, float outer) { return to_e4m3(absmax / (level * outer)); }

double squared_error(std::span<const float> values, const Grid& grid) {
  double sum = 0;
  for (float value : values) {
    const double error = static_cast<double>(grid.round(value)) - static_cast<double>(value);
    sum += error * error;
  }
  return sum;
}

float absmax_of(std::span<const float> values) {
  float most = 0;
  for (float value : values)
    if (!std::isnan(most) && !(std::fabs(value) <= most)) most = std::fabs(value);
  return most;
}

// Of some scales the one of least squared error, the first among equals.
Grid best_of(std::span<const float> values, const NumberFormat& format, float outer, std::span<const float> scales) {
  Grid best;
  double least = std::numeric_limits<double>::infinity();
  for (float scale : scales) {
    const Grid grid = block_grid(format, scale, outer);
    const double error = squared_error(values, grid);
    if (!(error < least)) continue;
    least = error;
    best = grid;
  }
  return best;
}

Grid searched_power(std::span<const float> values, const NumberFormat& format, float start) {
  const float scales[] = {start, start / 2, start * 2, start / 4};
  const bool edge = start <= 0x1p-125f || start >= 0x1p126f;
  return best_of(values, format, 1, std::span(scales).first(edge ? 1 : 4));
}

// Every E4M3 scale from the one that clips the greatest value by a third to the one that leaves a third free.
Grid searched_e4m3(std::span<const float> values, const NumberFormat& format, float outer, float fitted) {
  static const NumberFormat codec = *parse_format("fp8e4m3");
  const Element& element = Element::of(codec);
  const int32_t middle = element.encode(fitted);
  std::vector<float> scales = {fitted};
  for (int32_t code = std::max(1, middle - 5); code <= std::min(126, middle + 5); ++code)
    scales.push_back(element.level(code));
  return best_of(values, format, outer, scales);
}

}  // namespace

Grid block_grid(const NumberFormat& format, float scale, float outer) {
  if (format.sharing == Sharing::none) scale = std::ldexp(1.0f, -format.fraction);
  if (!has_element(format)) return Grid::make(scale, int32_t{1} << (format.bits - 1), format.bits);
  Grid grid;
  grid.scale = scale;
  grid.inverse = 1.0f / scale;
  grid.most = (int32_t{1} << format.bits) - 1;
  grid.element = &Element::of(format);
  grid.outer = outer;
  grid.cut = format.rule == ScaleRule::paper && format.levels == Levels::minifloat;
  return grid;
}

int PowerRule::exponent(float a) const {
  const int biased = static_cast<int>(std::bit_cast<uint32_t>(a) >> 23 & 255);
  const int moved = biased - 127 - shift + int{fraction_of(a) >= up_from} - int{fraction_of(a) < down_below};
  return std::clamp(moved, -127, 127);
}

PowerRule power_rule(const NumberFormat& format) {
  const float greatest = greatest_level(format);
  PowerRule rule;
  rule.shift = std::ilogb(greatest);
  const uint32_t m = fraction_of(greatest);
  switch (format.rule) {
    case ScaleRule::ceil: rule.up_from = 1; break;
    case ScaleRule::up: rule.up_from = m + 1; break;
    case ScaleRule::even:
    case ScaleRule::search: rule.up_from = kFraction + 1 - (1u << (22 - top_mantissa(format))); break;
    case ScaleRule::nearest: {
      // log2(a / greatest) is rounded up from sqrt(2) on and down below its half.
      const double root = std::sqrt(2.0), one = std::ldexp(1 + std::ldexp(static_cast<double>(m), -23), 23);
      const double up = one * root, down = one / root, base = std::ldexp(1.0, 23);
      if (up < 2 * base) rule.up_from = static_cast<uint32_t>(std::ceil(up - base));
      if (down > base) rule.down_below = static_cast<uint32_t>(std::ceil(down - base));
      break;
    }
    case ScaleRule::paper:
      // Block floating point: ceil(log2 a) is where one is, not two. Block minifloats: the exponent's offset is
      // clamp(floor(log2 a), 0, 255), subtracted: no rule of this form, see block_scale.
      rule.shift += 1;
      rule.up_from = 1;
      break;
    default: break;
  }
  return rule;
}

float block_scale(const NumberFormat& format, float absmax, float outer) {
  if (!std::isfinite(absmax)) return std::numeric_limits<float>::quiet_NaN();
  if (format.sharing == Sharing::none) return std::ldexp(1.0f, -format.fraction);
  if (absmax == 0) return 1;
  if (format.scale == ScaleCodec::e4m3) return ratio_scale(absmax, greatest_level(format), outer);
  if (format.rule == ScaleRule::paper && format.levels == Levels::minifloat) {
    const int bias = std::clamp(std::ilogb(absmax), 0, 127);
    return std::ldexp(1.0f, (begin_levels() + format.row)->element.bias - bias);
  }
  return std::ldexp(1.0f, power_rule(format).exponent(absmax));
}

float outer_scale(const NumberFormat& format, float absmax) {
  if (!format.outer || !(absmax > 0) || !std::isfinite(absmax)) return 1;
  constexpr float kSpare = 256;  // leaves room for a scale half as large again
  const float most = format.rule == ScaleRule::four_six ? kSpare : kMostScale;
  return absmax / (greatest_level(format) * most);
}

float token_outer_scale(const NumberFormat& format, float absmax) {
  const float scale = outer_scale(format, absmax);
  if (scale == 1) return 1;
  const int exponent = std::ilogb(scale) + int{fraction_of(scale) != 0};
  return std::ldexp(1.0f, std::clamp(exponent, -100, 100));
}

NumberFormat with_fraction(NumberFormat format, float most) {
  const double greatest = std::ldexp(1.0, format.bits - 1) - 1;
  const double fraction = most > 0 ? std::floor(std::log2(greatest / static_cast<double>(most))) : 0;
  format.sharing = Sharing::none;
  format.scale = ScaleCodec::none;
  format.fraction = static_cast<int>(std::clamp(fraction, -126.0, 126.0));
  return format;
}

bool fulfils(const NumberFormat& stored, const NumberFormat& planned) {
  if (!planned.is_profiled()) return stored == planned;
  NumberFormat expected = with_fraction(planned, 1);
  expected.fraction = stored.fraction;
  return stored == expected;
}

Grid choose_block_grid(std::span<const float> values, const NumberFormat& format, float outer) {
  const float absmax = absmax_of(values), scale = block_scale(format, absmax, outer);
  const Grid fitted = block_grid(format, scale, outer);
  if (absmax == 0) return fitted;
  if (format.rule == ScaleRule::four_six) {
    const float scales[] = {scale, ratio_scale(absmax, 4, outer)};
    return best_of(values, format, outer, scales);
  }
  if (format.rule != ScaleRule::search) return fitted;
  return format.outer ? searched_e4m3(values, format, outer, scale) : searched_power(values, format, scale);
}

namespace {

// Levels are at most `greatest`.
template <class Scale>
void round_blocks(std::span<const float> x, const NumberFormat& format, float outer, float greatest, std::span<float> y,
                  const Scale& scale_of) {
  const auto size = static_cast<size_t>(std::max<int64_t>(1, format.group_size(static_cast<int64_t>(x.size()))));
  for (size_t begin = 0; begin < x.size(); begin += size) {
    const auto block = x.subspan(begin, std::min(size, x.size() - begin));
    const float scale = scale_of(absmax_of(block));
    const Grid grid = block_grid(format, scale, outer);
    const float most = greatest * scale * outer;
    for (size_t i = 0; i < block.size(); ++i)
      y[begin + i] = std::isnan(scale) ? scale : std::clamp(grid.round(block[i]), -most, most);
  }
}

}  // namespace

void round_row(std::span<const float> x, const NumberFormat& format, std::span<float> y) {
  round_row(x, format, token_outer_scale(format, absmax_of(x)), y);
}

void round_row(std::span<const float> x, const NumberFormat& format, float outer, std::span<float> y) {
  constexpr float kAny = std::numeric_limits<float>::max();
  round_blocks(x, format, outer, kAny, y, [&](float absmax) { return block_scale(format, absmax, outer); });
}

void round_probabilities(std::span<const float> x, const NumberFormat& format, std::span<float> y) {
  if (!format.outer) return round_row(x, format, y);
  round_blocks(x, format, kProbabilityOuter, kProbabilityLevel, y, [](float absmax) {
    if (!std::isfinite(absmax)) return std::numeric_limits<float>::quiet_NaN();
    return absmax == 0 ? 1 : ratio_scale(absmax, kProbabilityLevel, kProbabilityOuter);
  });
}

}  // namespace nibble
