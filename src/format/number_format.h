// What a stored number may be: levels x scale x sharing.
//
// A format says which values an element may take (its levels), which scale multiplies them and who shares that
// scale, and whether an offset is subtracted first. It is plain data: decoding needs nothing else, and *choosing* a
// scale (absmax, clipping search) is the encoder's business, never part of the format.
//
//   int4:row            16 integer levels, one float32 scale per output row
//   int4:g128           one float16 scale per run of 128 inputs of a row
//   int4:g128:asym      the same with an integer offset per run
//   int8:token:asym     activations: scale and integer zero point per token, found at run time
//   f16, bf16, f32      plain floats
//
// Grammar: LEVELS[:SHARING][:asym], LEVELS one of the names in formats.cpp, SHARING one of tensor, row, token, gN.
// docs/formats.md is the user's page on it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/result.h"

namespace nibble {

enum class Levels : uint8_t { integer, f32, f16, bf16 };
enum class Sharing : uint8_t { none, tensor, row, token, group };
enum class ScaleCodec : uint8_t { none, f32, f16 };

struct NumberFormat {
  Levels levels = Levels::f32;
  int bits = 32;                        // per element, scales not counted
  Sharing sharing = Sharing::none;      // of the scale (and the offset)
  int64_t group = 0;                    // elements along K per scale, for Sharing::group
  bool offset = false;                  // an integer offset beside each scale ("asym")
  ScaleCodec scale = ScaleCodec::none;  // how a stored scale is written; activations' scales are not stored

  bool is_integer() const { return levels == Levels::integer; }
  int64_t levels_count() const { return int64_t{1} << bits; }
  // Scales per row of k elements: 1 for row and token sharing, ceil(k / group) for groups.
  int64_t groups(int64_t k) const;
  // Elements along K that share a scale.
  int64_t group_size(int64_t k) const { return sharing == Sharing::group ? group : k; }
  bool operator==(const NumberFormat&) const = default;
};

// usage error naming the text and the grammar when it does not parse.
Result<NumberFormat> parse_format(std::string_view text);
std::string to_string(const NumberFormat& format);

// One row of the list of levels (formats.cpp): adding a format from known pieces is adding a row.
struct LevelsRow {
  std::string_view name;
  Levels levels;
  int bits;
};
// All rows, for tests and documentation that walk the list.
const LevelsRow* begin_levels();
const LevelsRow* end_levels();

}  // namespace nibble
