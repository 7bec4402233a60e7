// What a stored number may be: levels x scale x sharing.
//
// A format says which values an element may take (its levels), which scale multiplies them and who shares that
// scale, and whether an offset is subtracted first. It is plain data: decoding needs nothing else, and *choosing* a
// scale (absmax, clipping search) is the encoder's business, never part of the format. Where an encoder has to choose
// while the model runs, the format carries the rule it goes by; decoding never asks for it.
//
//   int4:row            16 integer levels, one float32 scale per output row
//   int4:g128           one float16 scale per run of 128 inputs of a row
//   int4:g128:asym      the same with an integer offset per run
//   int:g128:asym       the same, each run of 128 columns with a number of bits of its own for all rows
//   int8:token:asym     activations: scale and integer zero point per token, found at run time
//   bfp6:b16            block floating point: sign and 5 bits of magnitude, one power of two per block of 16 inputs
//   mxfp4:b32:floor     OCP microscaling E2M1 with the scale rule of the specification
//   nvfp4:b16           E2M1, an E4M3 scale per block and a float32 scale per matrix
//   e4m3, fixed8:f4     a minifloat without a scale; fixed point with 4 fractional bits
//   code3:row           8 learned levels per output row, integers times a power of two stored beside the codes
//   code:col            learned levels per input column, each column with a number of bits of its own
//   f16, bf16, f32      plain floats
//
// Grammar: LEVELS[:SHARING][:asym][:fN][:RULE], LEVELS one of the names in formats.cpp, SHARING one of tensor, row,
// col, token, gN, bN. docs/formats.md is the user's page on it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/result.h"

namespace nibble {

// How a code is read before any scale. `integer`: code - offset. `table`: the code's place in a table that is stored
// beside the codes. The others have a sign in their highest bit, and below it `magnitude`: an integer; `minifloat`:
// exponent and mantissa; `power`: zero, or a power of two up to 1.
enum class Levels : uint8_t { integer, magnitude, minifloat, power, table, f32, f16, bf16 };
enum class Sharing : uint8_t { none, tensor, row, column, token, group };
// power: 2^e, e from -127 to 127 in one byte (E8M0); e4m3: an OCP E4M3 number without sign.
enum class ScaleCodec : uint8_t { none, f32, f16, power, e4m3 };

// How a block's scale is chosen from its largest magnitude a. For powers of two, with m the largest level:
//   floor    floor(log2 a) - floor(log2 m)                         may clip a, at most to half of it
//   ceil     ceil(log2 a) - floor(log2 m)
//   up       ceil(log2(a / m))                                     never clips
//   even     floor(log2 of a rounded to the element's mantissa) - floor(log2 m)
//   nearest  log2(a / m), rounded
//   paper    what the code of arXiv 2310.05079 does, quirks included: for block floating point ceil(log2 a), which
//            clips exact powers of two; for block minifloats the exponent's sign as it stands there; and mantissas that
//            would carry into the next exponent are cut off
//   search   weights only: the scale of least squared error near those
//   fit      the largest level meets a (scales that are not powers of two); integers: format/grid.h
//   four_six NVFP4, weights only: of a / 6 and a / 4 the one of less squared error
enum class ScaleRule : uint8_t { fit, floor, ceil, up, even, nearest, paper, search, four_six };

struct LevelsRow;

struct NumberFormat {
  Levels levels = Levels::f32;
  int bits = 32;  // per element, scales not counted; 0: open, columns (or groups of them) have their own
  Sharing sharing = Sharing::none;      // of the scale (and the offset), or of the table
  int64_t group = 0;                    // elements along K per scale, for Sharing::group
  bool offset = false;                  // an integer offset beside each scale ("asym")
  ScaleCodec scale = ScaleCodec::none;  // how a stored scale is written; activations' scales are not stored
  bool outer = false;                   // a float32 scale for the whole matrix multiplies the shared ones
  int fraction = 0;                     // without a shared scale: all levels times 2^-fraction
  ScaleRule rule = ScaleRule::fit;
  uint8_t row = 0;  // block formats: place in the list of levels; else 0

  bool is_float() const { return levels == Levels::f32 || levels == Levels::f16 || levels == Levels::bf16; }
  // Integer levels under a float scale: what the integer kernels multiply.
  bool is_integer() const {
    return levels == Levels::integer && (scale == ScaleCodec::f32 || scale == ScaleCodec::f16);
  }
  // Levels that were learned from the weights: tables of integers times a power of two.
  bool is_learned() const { return levels == Levels::table; }
  // Every other coded format. Its values are exact in bfloat16 but for the outer scale: multiplied so, or as integers.
  bool is_block() const { return !is_float() && !is_integer() && !is_learned(); }
  bool is_exact_in_bf16() const { return is_block() || is_learned() || levels == Levels::bf16; }
  bool has_codes() const { return !is_float(); }
  // Fixed point whose fraction is found while quantizing.
  bool is_profiled() const { return is_block() && sharing == Sharing::tensor; }
  int64_t levels_count() const { return int64_t{1} << bits; }
  // The same with its open bits said.
  NumberFormat with_bits(int said) const {
    NumberFormat out = *this;
    if (bits == 0) out.bits = said;
    return out;
  }
  // Runs of elements with a scale (or table) of their own in a row of k: 1 for row and token sharing, k for columns,
  // ceil(k / group) for groups.
  int64_t groups(int64_t k) const;
  // Elements along K that share a scale.
  int64_t group_size(int64_t k) const { return sharing == Sharing::group ? group : sharing == Sharing::column ? 1 : k; }
  // Learned levels of all tables of N rows of k elements; 0 for other formats. Not for columns with bits of their own.
  int64_t table_levels(int64_t n, int64_t k) const;
  // What they are stored in: a byte for each, and the exponent of each table.
  int64_t table_bytes(int64_t n, int64_t k) const { return table_levels(n, k) + (table_levels(n, k) >> bits); }
  bool operator==(const NumberFormat&) const = default;
};

// What can be stored as weights: plain floats, and codes with scales (or tables) by row, column or group, or without
// any.
bool serves_weights(const NumberFormat& format);
// What a layer's input can be while the model runs: f32, bf16, integers with a scale per token, and block formats whose
// rule needs no search (nor cuts mantissas off, as `paper` does with minifloats).
bool serves_activations(const NumberFormat& format);
// Which inputs such weights can be multiplied with: f32 always, integers with integers and learned levels, bf16 and
// block formats with weights that are exact in bfloat16, but block formats not with plain floats.
bool can_multiply(const NumberFormat& weights, const NumberFormat& activations);

// usage error naming the text and the grammar when it does not parse.
Result<NumberFormat> parse_format(std::string_view text);
std::string to_string(const NumberFormat& format);

// The layout of a minifloat: v = 2^(e - bias) * (1 + m / 2^mantissa_bits) for exponent codes e > 0, and subnormal
// numbers for e = 0. Without the leading one ("denormalised") v = 2^(e - bias) * m / 2^mantissa_bits for every e.
// `reserved`: how many of the greatest codes are no numbers.
struct Minifloat {
  int exponent_bits = 0, mantissa_bits = 0, bias = 0;
  bool leading_one = true;
  int reserved = 0;
  bool operator==(const Minifloat&) const = default;
};

// One row of the list of levels (formats.cpp): adding a format from known pieces is adding a row.
struct LevelsRow {
  std::string_view name;
  Levels levels;
  int bits;
  std::string_view what = {};  // for lists of formats
  Minifloat element = {};
  ScaleCodec scale = ScaleCodec::none;  // none: floats and integers, whose sharing decides
  int64_t block = 0;                    // default block size; 0: no shared scale unless the text says so
  bool outer = false;
  ScaleRule rule = ScaleRule::fit;
};
// All rows, for tests and documentation that walk the list.
const LevelsRow* begin_levels();
const LevelsRow* end_levels();

}  // namespace nibble
