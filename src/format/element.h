// The levels of formats whose codes have a sign bit: which number a code is before any scale, and which code is nearest
// to a number. One table for each row of the list of levels, built from the row alone.
//
// The numbers of one sign ascend with their place in the table, 0 first; each binade begins at an even place, so that
// rounding to the even place is rounding to the even mantissa, with the carry into the next exponent. Integers of
// `magnitude` round ties away from zero instead, as the published vectors of block floating point do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "format/number_format.h"

namespace nibble {

class Element {
 public:
  // Of a format with levels magnitude, minifloat or power. Lives as long as the program.
  static const Element& of(const NumberFormat& format);

  explicit Element(const LevelsRow& row);

  // NaN or infinity for reserved codes.
  float level(int32_t code) const { return levels_[static_cast<size_t>(code)]; }
  // The code of the nearest level, greater numbers to the greatest level; NaN gives 0. Powers are nearest
  // by their logarithm. With `cut`, what would carry into the next exponent stays below it.
  int32_t encode(float x, bool cut = false) const;
  float greatest() const { return magnitudes_.back(); }

  // The same as arithmetic, for kernels: |x| in [2^e, 2^(e+1)) is rounded to a multiple of 2^(max(e, least_exponent())
  // - mantissa_bits()), ties to even or away from zero, and then lowered to greatest().
  int mantissa_bits() const { return mantissa_bits_; }
  bool ties_away() const { return ties_ == Ties::away; }
  int least_exponent() const { return least_exponent_; }

 private:
  enum class Ties : uint8_t { even, away, none };  // none: a bound belongs to the number below it

  void add_magnitudes(const LevelsRow& row);

  int bits_, mantissa_bits_ = 0, least_exponent_ = 0;
  size_t first_cut_ = 0;  // the place of the first number with an exponent of its own
  Ties ties_ = Ties::even;
  std::vector<float> levels_;      // by code
  std::vector<float> magnitudes_;  // ascending, distinct
  std::vector<uint8_t> codes_;     // of the magnitudes
  std::vector<float> bounds_;      // between a magnitude and the next
};

}  // namespace nibble
