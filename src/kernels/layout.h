// What the packed layouts of kernels/abi/linear.h are like, for those who write and read them. Internal to packing.
#pragma once

#include "core/checked.h"
#include "format/number_format.h"
#include "kernels/linear.h"

namespace nibble {

inline constexpr int64_t kStepInputs = 4;
inline constexpr int64_t kCodes = 64;          // of block layouts with a table of levels
inline constexpr int32_t kLevelZero = 128;     // as block layouts store it
inline constexpr int64_t kCompactGroup = 128;  // inputs: |level - zero| <= 255, so their sum fits 16 bits
inline constexpr int64_t kPair = 2;            // panels

// bf16 weights with bf16 input: which of the two layouts, and with it which order of additions, this level multiplies
// fastest.
inline PackedType packed_halves(Isa isa) { return isa >= Isa::amx ? PackedType::bf16_tiles : PackedType::bf16_pairs; }

// The block layout for codes of so many bits.
inline PackedType blocks_of(int bits) {
  if (bits <= 4) return PackedType::blocks4;
  if (bits == 5) return PackedType::blocks5;
  return bits == 6 ? PackedType::blocks6 : PackedType::blocks8;
}

// Bits that a block layout spends on a code; 0 for other layouts.
inline int block_bits(PackedType type) {
  switch (type) {
    case PackedType::blocks4: return 4;
    case PackedType::blocks5: return 5;
    case PackedType::blocks6: return 6;
    case PackedType::blocks8: return 8;
    default: return 0;
  }
}

// The layout of codes that stands for one of values; the same where there is none.
inline PackedType coded_type(PackedType values) {
  switch (values) {
    case PackedType::bf16: return PackedType::coded;
    case PackedType::bf16_pairs: return PackedType::coded_pairs;
    case PackedType::bf16_tiles: return PackedType::coded_tiles;
    default: return values;
  }
}

inline bool is_coded(PackedType type) {
  return type == PackedType::coded || type == PackedType::coded_pairs || type == PackedType::coded_tiles;
}

inline bool in_pairs(PackedType type) { return type == PackedType::bf16_pairs || type == PackedType::bf16_tiles; }

// Inputs of a float layout, padding included.
inline int64_t padded_inputs(PackedType type, int64_t k) {
  return type == PackedType::bf16_tiles ? round_up(k, 32) : type == PackedType::bf16_pairs ? round_up(k, 2) : k;
}

// Where a float layout has input k of a panel's lane, counted in values.
inline int64_t value_at(PackedType type, int64_t k_end, int64_t panel, int64_t lane, int64_t k) {
  const int64_t begin = panel * padded_inputs(type, k_end) * kLanes;
  return begin + (in_pairs(type) ? (k / 2 * kLanes + lane) * 2 + k % 2 : k * kLanes + lane);
}

inline bool is_integer(PackedType type) {
  return type == PackedType::int4 || type == PackedType::int8 || type == PackedType::coded_integers;
}

inline int64_t value_bytes(PackedType type) { return type == PackedType::f32 ? 4 : 2; }

// Half of the codes' range: level = code - half, for symmetric and asymmetric grids alike.
inline int32_t half_range(int bits) { return int32_t{1} << (bits - 1); }

// The integer that stands for a code of so many bits, and the code that it stands for.
inline int32_t level_of(int32_t code, int bits) { return (bits == 1 ? kSignStep * code : code) - middle_offset(bits); }
inline int32_t code_of(int32_t level, int bits) { return (level + middle_offset(bits)) / (bits == 1 ? kSignStep : 1); }

// The image of a layer: these arrays one after the other, each at a multiple of 64 bytes.
struct PackedLinear::Parts {
  // Offsets in bytes.
  int64_t codes = 0, scales = 0, sums = 0, zeros = 0, levels = 0, outer = 0, kept = 0, bias = 0;
  int64_t sparse_rows = 0, sparse_columns = 0, sparse = 0, end = 0;
};

}  // namespace nibble
