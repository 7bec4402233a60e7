// The contract between packed weights and the kernels that multiply with them. Leaf header: the ISA folders include
// this and intrinsics only, so it holds plain structs and no inline code.
//
// Terms: M tokens (rows of the input), N outputs, K inputs, G groups of inputs that share a scale.
//
// Weights are packed in panels of 16 outputs, one output to a lane, so that a kernel never adds across lanes: every
// row of the kernel list computes each output with the same sequence of operations, K ascending, and rows of all
// instruction sets give identical bits. Outputs beyond N are level 0 with scale 0.
//
// Integer layouts (a step = 4 inputs = 64 bytes):
//   8 bits:  byte [panel][k/4][lane][k%4]  = level, two's complement, -128..127
//   4 bits:  byte [pair][k/4][lane][k%4]   of two panels 2 * pair and 2 * pair + 1: the low nibble is level + 8 of the
//            first, the high one the level of the second in two's complement, so that the byte as a signed number is
//            16 * second + (first + 8). A kernel that multiplies the byte as it is and once more its low nibble has
//            both panels' sums for one operation of unpacking. Arrays by panel have an even number of panels.
// Each group is padded with level 0 to a whole number of steps (`group_steps`, even), so a step never crosses a group;
// the quantized activations are padded the same way, with code 0.
// Float layouts: value [panel][k][lane], in f32, f16 or bf16.
#pragma once

#include <cstdint>

namespace nibble {

inline constexpr int64_t kLanes = 16;

enum class PackedType : uint8_t { int4, int8, f32, f16, bf16 };

// The dense part of one linear layer in kernel layout. A weight is scale * (level - zero).
struct PackedDense {
  PackedType type;
  int64_t n, k;         // outputs; inputs before padding
  int64_t group_size;   // inputs of every group but the last, which may be shorter (K for float types)
  int64_t groups;       // G (1 for float types)
  int64_t group_steps;  // steps of every group, the last one padded to the same number (integer types)
  const void* codes;
  const float* scales;   // [panel][G][16]                                            integer types
  const int32_t* zeros;  // [panel][G][16], or null when all are zero                 integer types
  const int32_t* sums;   // [panel][G][16]: sum over the group of level - zero        integer types
};

// Kept columns: float16 [panel][column][16].
struct PackedKept {
  const uint16_t* values;
  int64_t columns;  // 0: none
};

// Quantized activations of M tokens: value = scale[m] * (code - zero[m]), unsigned 8-bit codes (4-bit ones too).
struct QuantizedRows {
  const uint8_t* codes;  // [M][stride], groups padded as the weights' steps are
  int64_t stride;
  const float* scales;   // [M]
  const int32_t* zeros;  // [M]
  const int32_t* sums;   // [M][G]: sum of the group's codes, padding excluded
};

// y = W x + b for tokens [m_begin, m_end) and panels [panel_begin, panel_end); for integer weights panel_begin is even
// and the last pair may lack its second panel. Single-threaded; no allocation.
//
// Integer dense part, for output n of token m (the definition; every kernel computes exactly this):
//   r = bias[n];  for each kept column c ascending:  r = fma(x_kept[m][c], w_kept[n][c], r)
//   f = 0;        for each group g ascending:
//                   acc = sum_k (code[m][k] - zero[m]) * (level[n][k] - zero[n][g])                   (exact int32)
//                   f = fma(scales[n][g], (float)acc, f)
//   y = fma(scale[m], f, r)
// and the sum is evaluated as
//   acc = sum_k code[m][k] * level[n][k]  -  zero[n][g] * rows.sums[m][g]  -  zero[m] * sums[n][g]
// modulo 2^32, which is exact because packing refuses shapes whose result does not fit.
// Integer weights with float input:
//   f = 0; for each group g:  a = 0; for each k in g ascending: a = fma(x[m][k], (float)(level - zero), a);
//                             f = fma(scales[n][g], a, f)
//   y = r + f
// Float weights with float input (one group, no scales):  a = r; for each k ascending a = fma(x, w, a);  y = a
//   (with r = bias and the kept columns first).
struct LinearArgs {
  PackedDense dense;
  PackedKept kept;
  const float* bias;   // [16 * panels] padded, or null
  QuantizedRows rows;  // integer input
  const float* x;      // float input [M][x_stride], the dense columns (K values)
  int64_t x_stride;
  const float* x_kept;  // [M][kept_stride]
  int64_t kept_stride;
  float* y;  // [M][y_stride]; columns from N on are not touched
  int64_t y_stride;
  int64_t m_begin, m_end, panel_begin, panel_end;
};

using LinearKernel = void (*)(const LinearArgs&);

// Splits and quantizes rows of float input: gathers the dense columns, finds their range, writes codes, scale, zero
// and sums as format/grid.h defines them, and copies the kept columns. Padding between groups gets code 0. A token with
// a NaN among its dense columns gets a NaN scale, so that the NaN reaches its outputs instead of disappearing.
struct QuantizeArgs {
  const float* x;  // [M][x_stride]
  int64_t x_stride, m_begin, m_end;
  const int32_t* dense_columns;  // I column numbers, ascending; null: columns 0..I-1
  int64_t dense_count;
  const int32_t* kept_columns;  // ascending; together with the dense ones all columns of the row
  int64_t kept_count;
  int bits;  // 2..8
  bool asymmetric;
  int64_t group_size, groups, group_stride;  // elements per group, G, bytes per padded group (multiple of 8)
  uint8_t* codes;
  int64_t stride;  // from token to token; at least G * group_stride
  float* scales;   // [M]
  int32_t* zeros;  // [M]
  int32_t* sums;   // [M][G]
  float* kept;     // [M][kept_stride]
  int64_t kept_stride;
};

using QuantizeKernel = void (*)(const QuantizeArgs&);

// One row of an ISA folder's table: a linear kernel and what it can serve.
struct LinearRow {
  const char* name;  // e.g. "linear_w4_a8__avx512vnni_12x32"
  PackedType weights;
  bool integer_input;       // quantized activations, else float
  int max_activation_bits;  // for integer input: codes up to this many bits (4 or 8)
  int64_t min_m;            // pays from this many tokens on; fewer run on a later row
  int64_t step_multiple;    // integer input: serves groups whose steps are a multiple of this
  int64_t tile_m;           // tokens of its register tile: cutting M at multiples of it wastes nothing
  LinearKernel kernel;
};

}  // namespace nibble
