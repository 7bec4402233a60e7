// The one definition of quantization in Nibble. Weights, activations, solvers, simulation and every kernel mean this
// arithmetic; fast kernels reproduce it bit for bit.
//
// Integers under a float scale:
//   code  = clamp(round(x * (1 / scale)) + offset, 0, 2^bits - 1)      round to nearest, ties to even; NaN gives 0
//   value = scale * (code - offset)
// A symmetric grid has offset 2^(bits-1), so that code - offset runs over -2^(bits-1) .. 2^(bits-1) - 1.
// One bit has no zero, and its two levels may lie about any centre: the codes stand for 0 and kSignStep, the offset is
// 0 .. kSignStep, and kSignStep / 2 in a symmetric grid.
//   value = scale * (kSignStep * code - offset)
//
// Block formats (format/element.h has their levels):
//   code  = nearest level to x / (outer * scale)
//   value = outer * (scale * level)                   scale * level is exact in bfloat16 unless it is subnormal there
//
// Learned levels, a table of numbers in ascending order, integers of 8 bits times a power of two:
//   code  = the level nearest to x, the lower one of two       NaN gives 0
//   value = table[code]
// Where a table would be longer than what it saves (more than kTableBits), integers under such a power of two.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "format/element.h"

namespace nibble {

inline constexpr int32_t kSignStep = 14;  // both levels fit a signed integer of 4 bits under every offset

// Of the integers of so many bits: the greatest offset, which is also the distance from the first level to the last,
// and the offset of a symmetric grid.
constexpr int32_t most_offset(int bits) { return bits == 1 ? kSignStep : (int32_t{1} << bits) - 1; }
constexpr int32_t middle_offset(int bits) { return bits == 1 ? kSignStep / 2 : int32_t{1} << (bits - 1); }

struct Grid {
  float scale = 1;
  float inverse = 1;  // 1 / scale, rounded once
  int32_t offset = 0;
  int32_t most = 0;                  // the largest code, 2^bits - 1
  const Element* element = nullptr;  // the levels, where they are not code - offset
  float outer = 1;
  bool cut = false;              // ScaleRule::paper
  const float* table = nullptr;  // learned levels, most + 1 of them; not owned
  int32_t step = 1;              // from one code to the next; kSignStep for one bit

  static Grid make(float scale, int32_t offset, int bits) {
    Grid grid{scale, 1.0f / scale, offset, (int32_t{1} << bits) - 1};
    if (bits == 1) grid.step = kSignStep;
    return grid;
  }
  // Learned levels of 2^bits entries.
  static Grid of_table(const float* table, int bits) {
    Grid grid;
    grid.most = (int32_t{1} << bits) - 1;
    grid.table = table;
    return grid;
  }
  // What stands for a table where `bits` are more than kTableBits: 8 bits of which the lowest are missing.
  static Grid without_table(int exponent, int bits) {
    return make(std::ldexp(1.0f, exponent + 8 - bits), int32_t{1} << (bits - 1), bits);
  }
  int32_t encode(float x) const {
    if (table != nullptr) return nearest_level(x);
    if (element != nullptr) return element->encode(x / (outer * scale), cut);
    if (step != 1) return x * inverse + static_cast<float>(offset) > 0.5f * kSignStep ? 1 : 0;
    const float least = static_cast<float>(-offset), greatest = static_cast<float>(most - offset);
    float level = std::nearbyint(x * inverse);
    if (!(level >= least)) level = least;  // also NaN
    if (level > greatest) level = greatest;
    return static_cast<int32_t>(level) + offset;
  }
  float decode(int32_t code) const {
    if (table != nullptr) return table[code];
    if (element != nullptr) return outer * (scale * element->level(code));
    return scale * static_cast<float>(step * code - offset);
  }
  float round(float x) const { return decode(encode(x)); }
  // The code of 0, or the one nearest to it where there is none.
  int32_t zero() const { return table != nullptr || step != 1 ? encode(0) : element != nullptr ? 0 : offset; }

 private:
  int32_t nearest_level(float x) const;
};

// Bits of a code up to which a column of learned levels has a table.
inline constexpr int kTableBits = 4;

// Least and greatest value of a run, both widened to hold 0. NaN is ignored.
struct Range {
  float least = 0, greatest = 0;
  void widen(float x) {
    least = x < least ? x : least;
    greatest = x > greatest ? x : greatest;
  }
};
Range range_of(std::span<const float> values);

// Ranges below this are treated as all zero, so that 1 / scale stays finite.
inline constexpr float kSmallestRange = 1e-30f;

// Symmetric: scale = max|x| / (2^(bits-1) - 1), offset 2^(bits-1); for one bit max|x| / (kSignStep / 2). All-zero runs
// get the scale of max|x| = 1.
Grid symmetric_grid(float absmax, int bits);
// Asymmetric: scale = (greatest - least) / most_offset(bits), offset = round(-least / scale): zero is a level. All-zero
// runs get the range -1..1. (arXiv 2310.09259, as simulated in its accuracy tables.)
Grid asymmetric_grid(Range range, int bits);
Grid fit_grid(Range range, int bits, bool asymmetric);

// The grid of a block format for a stored scale, which is ignored where the format has none.
Grid block_grid(const NumberFormat& format, float scale, float outer);

}  // namespace nibble
