// The contract between packed weights and the kernels that multiply with them. Leaf header: the ISA folders include
// this and intrinsics only, so it holds plain structs and no inline code.
//
// Terms: M tokens (rows of the input), N outputs, K inputs, G groups of inputs that share a scale.
//
// Weights are packed in panels of 16 outputs, one output to a lane, so that a kernel need not add across lanes: every
// row of the kernel list computes each output with the same sequence of operations, K ascending (sums of integers,
// which are exact, in any order), and rows of all instruction sets give identical bits. Outputs beyond N are level 0
// with scale 0.
//
// Integer layouts (a step = 4 inputs = 64 bytes):
//   8 bits:  byte [panel][k/4][lane][k%4]  = level, two's complement, -128..127
//   4 bits:  byte [pair][k/4][lane][k%4]   of two panels 2 * pair and 2 * pair + 1: the low nibble is level + 8 of the
//            first, the high one the level of the second in two's complement, so that the byte as a signed number is
//            16 * second + (first + 8). A kernel that multiplies the byte as it is and once more its low nibble has
//            both panels' sums for one operation of unpacking. Arrays by panel have an even number of panels.
// Each group is padded with level 0 to a whole number of steps (`group_steps`, even), so a step never crosses a group;
// the quantized activations are padded the same way, with code 0.
// Float layouts: value [panel][k][lane], in f32, f16 or bf16, for float32 input; and for bf16 input
//   bf16_pairs:  bf16 [panel][k/2][lane][k%2], zeros up to an even K
//   bf16_tiles:  the same, zeros up to a K that 32 divides
// The rows of bf16 input have zeros up to the next multiple of 32 too.
// Block layouts: 4, 5, 6 or 8 bits a weight, blocks a multiple of 16 inputs, the last one filled up. A weight is
// scale * (levels[code] - 128) * factor; a chunk is 16 inputs of a panel, four steps:
//   bytes 0 .. 127     4, 5, 6 bits: [2][lane][k%4], the low nibble of a byte is the code's low four bits at step 0 (in
//                      the second half 2), the high nibble the same at step 1 (3)
//   bytes 128 .. 191   6 bits: [lane][k%4], bits 2 s and 2 s + 1 of a byte are the code's bits 4 and 5 at step s
//   bytes 128 .. 159   5 bits: [lane % 8][k%4], bit 4 * (lane / 8) + s of a byte is the code's bit 4 at step s
//   bytes 0 .. 255     8 bits: [4][lane][k%4], level + 128
// and a scale is a byte of [panel][block][16]: e + 127 for the scale 2^e, or an E4M3 number that counts as 2^-8 of
// itself.
//
// Coded layouts: bfloat16 numbers as codes that find them in a table. A panel is up to kCodedSegments segments of
// inputs whose codes have the same width, ascending; a segment is units of 32 inputs, the last one filled up; a unit of
// 2, 3, 4, 5, 6 or 8 bits is as many vectors of 64 bytes, each 32 words of 16 bits. Sixteen lookups t make a unit:
//   8 bits   lookup t is at bits 8 * (t % 2) of word w of vector t / 2
//   4 bits                     4 * (t % 4)                      t / 4
//   5, 6     the four lowest bits as with 4 bits; above them, with 5 bits one at bit t of vector 4, with 6 bits two at
//            bits 2 * (t % 8) of vector 4 + t / 8
//   2 bits                     2 * (t % 8)                      t / 8; with tables of columns both codes of a pair,
//            the second above the first, are at bits 4 * (t % 8) of dword w / 2
//   3 bits   0 .. 14:          3 * (t % 5)                      t / 5;  t = 15 has bit j at bit 15 of vector j
// What word w of lookup t stands for depends on whose the tables are:
//   columns, matrix    lane w / 2, input 2 t + w % 2: lookup t is a pair of inputs, as in bf16_pairs
//   rows               with E = 2^bits entries a table, 32 / E lanes side by side have E inputs each:
//                      lane t % (E/2) * (32/E) + w / E, input t / (E/2) * E + w % E
// so that 32 words are looked up in one register of 32 numbers. These are the tables:
//   columns  [pair of inputs][32]: 16 entries of the first input, entry i being level i % E, then those of the second
//   columns  of 2 bits: [pair][16][2], what the first input's code i % 4 and the second's i / 4 stand for, so that one
//            register of dwords holds all pairs of numbers
//   rows     [panel][G][16][E]; a group is a multiple of 32 inputs, or all
//   matrix   [16] up to 4 bits, entry i being level i % E, else [E]; with 8 bits entry 128 + i is that of i with the
//            sign set. A weight is the level times the scale of its block, a multiple of 16 inputs, which is a byte of
//            [panel][block][16] as in block layouts; no block has scales, or all. Where a product would not be exact in
//            bfloat16, packing rounds it and stores it under the least scale that is (pack_coded.h)
// Codes of 5 and 6 bits are of the matrix. Those of 8 bits are too, or they are levels in two's complement
// (`integer_codes`), to be multiplied with the first entry of their table: of the matrix, where they have a scale
// beside as well, or of their column. Inputs that fill a unit up have code 0: bf16 input is zero there, and float input
// is not read beyond K. Segments but the last have zeros there in either input (InputPlan::order).
//
// Coded integers: levels of 8 bits, -128 .. 127, as codes that find them in a table of bytes, for quantized input. They
// stand for the 8-bit layout, which *opening* a panel gives; scales and sums are as integer layouts have them, with
// scale 1 where tables are of columns. Panels are segments of units as above, of 2, 3, 4 or 8 bits; the units of a
// panel are as many as the steps of its groups take, and groups are multiples of 32 inputs, or there is one. A unit is
// eight lookups t of 64 codes, a byte to each:
//   2, 4 bits  lookup t is at bits b * (t % (8 / b)) of the bytes of vector t / (8 / b), with b = bits
//   3 bits     0 .. 5: 3 * (t % 2)                                      t / 2;  the two highest bits of vectors 0, 1
//              and 2 make six of a byte, lowest first: t = 6 is at bits 0 .. 2 of it, t = 7 at bits 3 .. 5
//   8 bits     the level itself, at vector t
// What byte b of lookup t stands for:
//   columns, or 8 bits  lane b / 4, input 4 t + b % 4: the steps of the 8-bit layout
//   rows                lane b / 16 * 4 + t % 4, input t / 4 * 16 + b % 16
// so that vpshufb, whose tables are 16 bytes for 16 codes, finds levels of columns with 1, 2, 4 tables for 2, 3, 4 bits
// (the codes of 4, 2, 1 columns in one) and levels of four rows with one. The tables, E = 2^bits entries each:
//   columns  [input / 4][64]: entry i of input k is byte k % 4 * E + i; zeros for places without an input
//   rows     [panel][G][4][4][E]: of lane l at [l % 4][l / 4]
#pragma once

#include <cstdint>

namespace nibble {

inline constexpr int64_t kLanes = 16;

enum class PackedType : uint8_t {
  int4,
  int8,
  f32,
  f16,
  bf16,
  bf16_pairs,
  bf16_tiles,
  blocks4,
  blocks5,
  blocks6,
  blocks8,
  coded,        // for float32 input
  coded_pairs,  // for bf16 input, multiplied in the order of bf16_pairs
  coded_tiles,  // and in that of bf16_tiles
  coded_integers
};

inline constexpr int64_t kChunkInputs = 16, kChunkSteps = 4;  // of block layouts

// What lies behind the codes of a block of activations. The int32 `start` is kBlockStart - 128 * (sum of the codes):
// sums of codes times levels + 128 that begin with it end at kBlockStart plus the sum of codes times levels, which
// stays below 2^22, so that its bits are those of the float kBlockStartValue plus that sum.
struct BlockTail {
  int32_t start;
  float scale;         // s
  float scaled_start;  // kBlockStartValue * s, exact
  int32_t unused;
};
inline constexpr int32_t kBlockStart = 0x4B400000;
inline constexpr float kBlockStartValue = 12582912;  // 1.5 * 2^23
inline constexpr int64_t kLongestBlock = 256;        // inputs: |code * level| <= 2^14

// Inputs of a coded layout whose codes have the same width.
struct CodedSegment {
  int64_t begin;   // input, a multiple of 32
  int64_t offset;  // of its first unit, in bytes of a panel
  int64_t bits;    // 2, 3, 4, 5, 6 or 8; of coded integers 2, 3, 4 or 8
};
inline constexpr int64_t kCodedSegments = 4, kUnitInputs = 32;
enum class CodedTables : uint8_t { columns, rows, matrix };

// The dense part of one linear layer in kernel layout. A weight is scale * (level - zero).
struct PackedDense {
  PackedType type;
  int64_t n, k;         // outputs; inputs before padding
  int64_t group_size;   // inputs of every group but the last, which may be shorter (K for float types)
  int64_t groups;       // G (1 for float types)
  int64_t group_steps;  // steps of every group, the last one padded to the same number (integer types)
  const void* codes;
  // Integer types: what a group has beside its codes, [panel][G][16] each. Compact, which groups of up to 128 inputs
  // with float16 scales are: float16, int8, int16; else float32, int32, int32.
  bool compact;
  const void* scales;
  const void* zeros;  // or null when all are zero
  const void* sums;   // over the group of level - zero
  // Block layouts; a group is a block.
  const uint8_t* levels;  // [64] by code, level + 128; not for 8 bits
  bool ascending;         // levels[i] = levels[0] + i
  bool e4m3;              // scales are E4M3 numbers
  float factor;
  // Coded layouts.
  CodedTables tables_of;
  bool integer_codes;  // of 8 bits
  // Tables of the matrix: bytes of scales, powers of two, with which every level's product is a normal number or zero,
  // so that exponents can be added. First above last: none.
  uint8_t first_plain_scale, last_plain_scale;
  int64_t segment_count;
  CodedSegment segments[kCodedSegments];
  int64_t panel_bytes;
  const uint16_t* tables;
  const int8_t* level_tables;  // of coded integers
};

// Opens inputs [begin, end) of a panel of a coded layout, whole units: bf16 [k/2][lane][k%2].
using OpenCodes = void (*)(const PackedDense& dense, int64_t panel, int64_t begin, int64_t end, uint16_t* to);

// Opens a panel of coded integers: the steps of all its groups, [groups * group_steps][64] bytes of the 8-bit layout.
using OpenLevels = void (*)(const PackedDense& dense, int64_t panel, int8_t* to);

// Quantized activations of M tokens: value = scale[m] * (code - zero[m]), unsigned 8-bit codes (4-bit ones too).
struct QuantizedRows {
  const uint8_t* codes;  // [M][stride], groups padded as the weights' steps are
  int64_t stride;
  const float* scales;   // [M]
  const int32_t* zeros;  // [M]
  const int32_t* sums;   // [G][sum_stride]: of each group, by token, the sum of its codes, padding excluded
  int64_t sum_stride;
};
// For block layouts a token's row is a record for each block: its codes, signed bytes, zeros up to a whole block, and
// a BlockTail. There are no zeros and no sums, and the value is scale[m] * (s * code).

// y = W x + b for tokens [m_begin, m_end) and panels [panel_begin, panel_end); for integer weights panel_begin is even
// and the last pair may lack its second panel. Single-threaded; no allocation.
//
// Every kernel starts from r: what y[m][n] holds already where `begun` says so, else bias[n]. That is how a layer with
// kept columns runs: they are a float layer of their own (their columns of x, their weights, the bias), and the dense
// part starts from its outputs. No kernel but a float one knows of them.
//
// Integer weights and input, for output n of token m (the definition; every kernel computes exactly this):
//   f = 0;        for each group g ascending:
//                   acc = sum_k (code[m][k] - zero[m]) * (level[n][k] - zero[n][g])                   (exact int32)
//                   f = fma(scales[n][g], (float)acc, f)
//   y = fma(scale[m], f, r)
// and the sum is evaluated as
//   acc = sum_k code[m][k] * level[n][k]  -  zero[n][g] * rows.sums[g][m]  -  zero[m] * sums[n][g]
// modulo 2^32, which is exact because packing refuses shapes whose result does not fit.
// Integer weights with float input:
//   f = 0; for each group g:  a = 0; for each k in g ascending: a = fma(x[m][k], (float)(level - zero), a);
//                             f = fma(scales[n][g], a, f)
//   y = r + f
// Block layouts with records, s being the scale of a record and w that of a block of weights:
//   f = 0; for each block b ascending:  acc = sum_k code[m][k] * (levels[code[n][k]] - 128)           (exact int32)
//                                       f = fma((float)acc * s[m][b], w[n][b], f)
//   y = fma(scale[m] * factor, f, r)
// Float weights with float input (one group, no scales):  a = r; for each k ascending a = fma(x, w, a);  y = a
// bf16 weights with bf16 input, as the instruction vdpbf16ps does it, the second input of a pair first:
//   a = r; for each pair k, k+1 ascending:  a = flushing_fma(x[k+1], w[k+1], a);  a = flushing_fma(x[k], w[k], a);  y =
//   a
// and as the tile instruction tdpbf16ps does it (bf16_tiles: the layout of processors that have it), for blocks of 32
// inputs, first and second inputs of pairs apart:
//   a = r; for each block:  e = o = 0; for each pair k, k+1 of it:  e = flushing_fma(x[k], w[k], e)
//                                                                   o = flushing_fma(x[k+1], w[k+1], o)
//                           a = flushing_add(a, flushing_add(e, o));  y = a
// flushing_fma is a fused multiply-add that takes a subnormal operand for a zero of its sign, and that gives a zero of
// its sign for a result which, rounded to 24 bits as if exponents had no end, is less than 2^-126: what the processor
// does when it is told to flush subnormals. flushing_add adds so.
// Learned levels with quantized input are integers too: a weight is level * 2^e, the level an int8 that a code finds.
//   Tables of rows or groups have an e each: the definition of integer weights with scales[n][g] = 2^e and no zeros.
//   Tables of columns: e of a column is the same for all outputs, and the input is multiplied with it before it is
//   quantized, x'[m][k] = x[m][k] * 2^e[k] (InputPlan::exponents). Then there is one group, and its scale is 1:
//     y = fma(scale[m], (float)sum_k (code[m][k] - zero[m]) * level[n][k], r)
// A sparse part reads the input as it was before it was multiplied and quantized.
// Coded weights are multiplied as the bf16 weights that they stand for: `coded` as bf16 with float input, the others as
// bf16_pairs and bf16_tiles with bf16 input.
struct LinearArgs {
  PackedDense dense;
  OpenCodes open;  // the fastest there is
  OpenLevels open_levels;
  const float* bias;   // [16 * panels] padded, or null: 0
  bool begun;          // y holds r; bias is not read
  QuantizedRows rows;  // integer input
  const float* x;      // float input [M][x_stride], K values a row
  int64_t x_stride;
  const uint16_t* halves;  // bf16 input [M][x_stride]
  float* y;                // [M][y_stride]; columns from N on are not touched
  int64_t y_stride;
  int64_t m_begin, m_end, panel_begin, panel_end;
};

// Single weights beside a dense part, which run before it: for rows [n_begin, n_end) of up to 16 tokens
//   r = bias or y;  for each weight of the row, in order:  r = fma(x, weight, r);  y = r
struct SparseArgs {
  const int32_t* row_ends;  // [N] how many weights the rows up to there have
  const int32_t* columns;   // places in the input
  const float* values;
  const float* bias;  // or null: 0
  bool begun;         // y holds r; bias is not read
  const float* x;     // [place][16], tokens side by side; with `alone` [place], of one token
  bool alone;
  float* y;  // of the first token
  int64_t y_stride;
  int64_t token_begin, token_end;  // of the 16
  int64_t n_begin, n_end;
};
using SparseKernel = void (*)(const SparseArgs&);

using LinearKernel = void (*)(const LinearArgs&);

// What is particular to a few linear kernels.
struct LinearTraits {
  int64_t min_m = 1;          // pays from this many tokens on; fewer run on a later row
  int64_t step_multiple = 1;  // quantized input: serves groups whose steps are a multiple of this
  int64_t block_k = 0;        // reads its tokens' input in blocks of so many values; 0: all K before the next strip
  bool opened = false;        // multiplies the 8-bit layout: panels of coded integers are opened for it first
};

// One row of an ISA folder's table: a linear kernel and what it can serve.
struct LinearRow {
  const char* name;  // e.g. "linear_w4_a8__avx512vnni_12x32"
  PackedType weights;
  int activation_bits;  // quantized input: codes of up to so many bits (4 or 8); 0: float or bf16 input
  int64_t tile_m;       // tokens of its register tile: cutting M at multiples of it wastes nothing
  LinearKernel kernel;
  LinearTraits traits = {};
};

}  // namespace nibble
