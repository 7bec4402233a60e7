#include "format/density.h"

#include <algorithm>
#include <cmath>

namespace nibble {
namespace {

constexpr double kFullAdder = 5, kMultiplexer = 3, kZeroCounter = 2;
constexpr double kRow = 4096;        // elements of a sum without blocks
constexpr double kShifterMost = 32;  // bits that the sum of powers of two keeps

double multiplier(double a, double b) { return a * b + (a - 1) * b * kFullAdder; }
double adder(double bits) { return bits * kFullAdder; }
double shifter(double bits, double range) { return range > 1 ? bits * std::ceil(std::log2(range)) * kMultiplexer : 0; }

// Aligning, adding and normalising sums of `bits` bits.
double float_adder(double bits) { return 2 * shifter(bits, bits) + adder(bits) + bits * kZeroCounter + adder(8); }

// A sum of `count` products, in fixed point.
double summed(double product_bits, double count) { return adder(product_bits + std::ceil(std::log2(count))); }

double elements_per_sum(const NumberFormat& format) {
  return format.sharing == Sharing::group ? static_cast<double>(format.group) : kRow;
}

// Exponents or scales multiplied, and a sum taken over to float32.
double once_per_block(const NumberFormat& format) {
  const double scales = format.scale == ScaleCodec::power ? adder(8) : multiplier(24, 24) + adder(8);
  return scales + shifter(24, 24) + 24 * kZeroCounter + float_adder(24);
}

double element_gates(const NumberFormat& format) {
  const double count = elements_per_sum(format);
  switch (format.levels) {
    case Levels::integer: return multiplier(format.bits, format.bits) + summed(2 * format.bits, count);
    case Levels::magnitude: {
      const double bits = format.bits - 1;
      return multiplier(bits, bits) + summed(2 * bits + 1, count);
    }
    case Levels::minifloat: {
      const Minifloat& element = (begin_levels() + format.row)->element;
      const double significand = element.mantissa_bits + int{element.leading_one};
      const double range = 2 * (std::exp2(element.exponent_bits) - 1), product = 2 * significand;
      return multiplier(significand, significand) + adder(element.exponent_bits + 1) + shifter(product + range, range) +
             summed(product + range + 1, count);
    }
    case Levels::power: return adder(format.bits) + shifter(kShifterMost, kShifterMost) + summed(kShifterMost, count);
    default: {
      const double significand = format.levels == Levels::f32 ? 24 : format.levels == Levels::f16 ? 11 : 8;
      return multiplier(significand, significand) + adder(8) + float_adder(2 * 24);
    }
  }
}

}  // namespace

double multiply_add_gates(const NumberFormat& format) {
  if (format.is_float()) return element_gates(format);
  return element_gates(format) + once_per_block(format) / elements_per_sum(format);
}

}  // namespace nibble
