// The canonical form of one linear layer y = W x + b: what is stored, solved for and packed for kernels.
//
// W is N outputs x K inputs. A layer is a sum of parts over its columns: a dense part (all columns that are not
// kept) in `format`, and the kept columns in 16-bit floats, which read the unquantized input: as it is where they are
// float16, rounded to bf16 where they are bf16. For a dense part in codes the input of the dense columns is quantized
// as `activations` says. Beside learned levels there may be a sparse part: single weights, by row, that add to the
// dense ones at their places and read the same input, but before it is quantized to integers.
//
// The dense columns' input may be rotated first: y = W_dense T (T x_dense) + W_kept x_kept, with T the block-wise
// Hadamard matrix (core/hadamard.h), its blocks counted over the dense columns. What is stored, and what decode_codes,
// decode_dense and decode_stored give, is W_dense T; decode_row gives W. Kept columns are taken out before.
//
// Layout of the stored bytes, little-endian; I = K - |kept| dense columns in ascending original order:
//   codes    rows of I codes of `bits` bits, first column in the lowest bits, each row padded to a byte;
//            with a 2:4 pattern only the I/2 codes that are present; float: rows of I values
//   pattern  2:4 only: for each group of four dense columns one nibble, position of the first present column in
//            bits 0-1 and of the second (greater) in bits 2-3; two groups a byte, low nibble first, rows padded
//   scales   N x G, row-major; G = groups(I); none for formats without a shared scale
//   outer    one float32, only for formats with an outer scale
//   offsets  N x G integers, only for formats with an offset
//   levels   learned levels only: tables of integers, -127 .. 127 and ascending, one table after the other: row: N;
//            column: I; group: N x G
//   exponents  one for each table: its levels stand for level * 2^exponent, which bf16 holds exactly
//   widths   only for formats that leave bits open: 1 .. 8 for each column, or for each group of them, a byte each.
//            A row is the string of its codes, of so many bits each. Learned levels: a column of more than kTableBits
//            has no table: its levels are (code - 2^(bits-1)) * 2^(8-bits)
//   sparse   row_ends: N integers, how many weights the rows up to there have; columns: ascending within a row, places
//            among the dense columns; values: bf16
//   kept     N x |kept| float16 or bf16
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/result.h"
#include "format/code_bytes.h"
#include "format/grid.h"
#include "format/number_format.h"

namespace nibble {

// Of a table of learned levels.
inline constexpr int kLeastExponent = -100, kMostExponent = 100, kGreatestLevel = 127;

// Bits of a row's codes, and numbers in the tables of all columns, where columns have bits of their own.
struct MixedSizes {
  int64_t code_bits = 0, levels = 0;
  static MixedSizes of(std::span<const uint8_t> widths);
  bool operator==(const MixedSizes&) const = default;
};

// Bytes that say so on disk, with I dense columns: one for each column, or each group of them.
int64_t width_bytes(const NumberFormat& format, int64_t dense_columns);

// What one row of a coded dense part of I columns takes, without learned levels.
struct RowSizes {
  int64_t codes = 0;        // bytes
  int64_t pattern = 0;      // bytes; 0 without a 2:4 pattern
  int64_t groups = 0;       // scales
  int64_t offsets = 0;      // one byte each
  int64_t scale_bytes = 0;  // of one scale
  int64_t bytes() const { return codes + pattern + groups * scale_bytes + offsets; }
};
// `code_bits`: of a row, where columns have bits of their own.
RowSizes row_sizes(const NumberFormat& format, int64_t dense_columns, bool sparse24, int64_t code_bits = 0);

struct SparseWeights {
  std::vector<int32_t> row_ends;  // N, or nothing at all
  std::vector<int32_t> columns;
  std::vector<float> values;  // already rounded to bf16

  bool empty() const { return values.empty(); }
  int64_t begin(int64_t n) const { return n == 0 ? 0 : row_ends[static_cast<size_t>(n - 1)]; }
  int64_t end(int64_t n) const { return row_ends[static_cast<size_t>(n)]; }
};
// Bytes of a stored place of I dense columns.
constexpr int64_t sparse_column_bytes(int64_t dense_columns) { return dense_columns <= 1 << 16 ? 2 : 4; }

struct LinearWeight {
  int64_t rows = 0;                   // N outputs
  int64_t columns = 0;                // K inputs
  NumberFormat format;                // of the dense part
  float outer = 1;                    // multiplies all scales, for formats with an outer scale
  NumberFormat activations;           // of the dense part's input; f32 when it is not quantized
  bool sparse24 = false;              // two of every four dense columns are present
  std::vector<int32_t> kept_columns;  // ascending, distinct
  CodeBytes codes;
  Bytes pattern;
  std::vector<float> scales;  // as stored (already rounded to the codec)
  std::vector<uint8_t> offsets;
  std::vector<float> levels;      // times 2^exponent
  std::vector<int8_t> exponents;  // kLeastExponent .. kMostExponent
  std::vector<uint8_t> widths;    // empty, or bits of each dense column; in a group all have the same
  SparseWeights sparse;
  std::vector<uint16_t> kept;        // bits
  Levels kept_levels = Levels::f16;  // or bf16
  int64_t rotation = 0;              // block of T; 0: not rotated
  std::vector<float> bias;           // empty or N

  int64_t kept_count() const { return static_cast<int64_t>(kept_columns.size()); }
  int64_t dense_columns() const { return columns - kept_count(); }   // I
  int64_t groups() const { return format.groups(dense_columns()); }  // runs of a row with a grid of their own
  // Bytes of the stored matrix (codes, pattern, scales, offsets, levels, widths, sparse weights and kept ones with
  // their indices): what bits per weight count.
  int64_t matrix_bytes() const;
  // The same with the bias: all stored tensors of this layer.
  int64_t stored_bytes() const { return matrix_bytes() + static_cast<int64_t>(sizeof(float) * bias.size()); }
  // Bits of the codes of group g, or of column g where columns have their own.
  int group_bits(int64_t g) const {
    return format.bits != 0 ? format.bits : widths[static_cast<size_t>(g * format.group_size(dense_columns()))];
  }
  // Grid of row n, group g (formats with codes). One with a table points into `levels`.
  Grid grid(int64_t n, int64_t g) const;
  // All grids of a row, in order.
  std::vector<Grid> grids(int64_t n) const;
  // Sizes of all members agree with each other and every index is in range; `name` starts the message.
  Status validate(std::string_view name) const;
};

// Learned levels as they are stored: the integers of all tables, and levels made of them again with the exponents and
// widths that the weight has.
std::vector<int8_t> integers_of_levels(const LinearWeight& weight);
std::vector<float> levels_of_integers(const LinearWeight& weight, std::span<const int8_t> integers);

// Ascending dense columns: everything in 0..columns-1 that is not kept.
std::vector<int32_t> dense_columns_of(int64_t columns, std::span<const int32_t> kept);

// values [I] <- values T, in double precision.
void rotate_dense(std::span<float> values, int64_t rotation);

// A float layer. `values` is row-major N x K in the format's own bytes (f32, f16 or bf16).
LinearWeight float_linear(int64_t rows, int64_t columns, Levels levels, CodeBytes values, std::vector<float> bias);

// Writes values in the bytes of a float format, `bits / 8` each, rounded to nearest, ties to even. Returns the first
// one that is not finite, or that is not after rounding; all of them are written all the same.
std::optional<float> write_floats(std::span<const float> values, Levels levels, std::byte* out);

// A kept weight's 16 bits, and its value: float16 or bf16, as `levels` says.
uint16_t round_kept(float value, Levels levels);
float kept_value(uint16_t bits, Levels levels);

// Row n of the dense part as codes; 2:4 gaps become the code of zero.
// out: I codes.
void decode_codes(const LinearWeight& weight, int64_t n, std::span<uint8_t> out);
// Row n of the dense part in floats, before the outer scale, without the sparse part. out: I values.
void decode_dense(const LinearWeight& weight, int64_t n, std::span<float> out);
// Row n as it is stored, kept columns included: rotated where the layer is. out: K values in original column order.
void decode_stored(const LinearWeight& weight, int64_t n, std::span<float> out);
// Row n of the effective float weights, which multiply the input as it is. out: K values in original column order.
void decode_row(const LinearWeight& weight, int64_t n, std::span<float> out);

// Packs codes of `bits` bits, first code in the lowest bits; out must hold packed_bytes(codes.size(), bits).
void pack_codes(std::span<const uint8_t> codes, int bits, std::span<std::byte> out);
void unpack_codes(std::span<const std::byte> packed, int bits, std::span<uint8_t> out);
// The same where each code has bits of its own.
void pack_codes(std::span<const uint8_t> codes, std::span<const uint8_t> widths, std::span<std::byte> out);
void unpack_codes(std::span<const std::byte> packed, std::span<const uint8_t> widths, std::span<uint8_t> out);
constexpr int64_t packed_bytes(int64_t count, int bits) { return (count * bits + 7) / 8; }

// Rounds a scale to what its codec can store: f32 or f16.
float round_scale(float scale, ScaleCodec codec);
// A power of two from 2^-127 on, or an E4M3 number, as the byte that stores it, and back. Byte 255 is no scale: NaN.
uint8_t scale_byte(float scale, ScaleCodec codec);
float scale_of_byte(uint8_t byte, ScaleCodec codec);
constexpr int64_t scale_bytes(ScaleCodec codec) {
  return codec == ScaleCodec::none ? 0 : codec == ScaleCodec::f32 ? 4 : codec == ScaleCodec::f16 ? 2 : 1;
}

}  // namespace nibble
