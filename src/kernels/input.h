// The input of a site, prepared once for all linears that read it: split into kept and dense columns, these rotated and
// quantized.
//
// Ownership: a PreparedInput belongs to one caller at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "core/cpu.h"
#include "core/function_ref.h"
#include "core/threads.h"
#include "format/number_format.h"
#include "kernels/abi/token.h"

namespace nibble {

// How the input of a site is prepared for its linears: linears of one site that agree on it share it.
struct InputPlan {
  NumberFormat activations;  // f32: the input is used as it is; bf16: rounded to it; block formats: rounded to them, as
                             // records of codes where the weights have the same blocks of integers, else as bf16 values
  std::vector<int32_t> kept_columns;
  bool kept_halves = false;  // the kept columns are rounded to bf16
  int64_t rotation = 0;      // block of the Hadamard rotation of the other columns, before they are quantized; 0: none
  int64_t columns = 0;       // K of the site
  // Which of the dense columns, rounded as planned (integers: before they are quantized), comes at each place of what
  // the kernels read, -1 for a zero; empty: all in order. Weights whose columns have codes of several widths are packed
  // by width.
  std::vector<int32_t> order;
  // Of each dense column, or empty: the input is multiplied with 2^exponent before it is put in order and quantized.
  std::vector<int8_t> exponents;
  // Of the codes: inputs to a weight group, G, and bytes of a padded group, or of the record of a block of codes. Zero,
  // one, zero when there are no codes.
  int64_t group_size = 0, groups = 1, group_stride = 0;
  bool sparse = false;  // single weights read it too
  bool operator==(const InputPlan&) const = default;
  bool in_records() const { return activations.is_block() && group_stride > 0; }
  int64_t kept_count() const { return static_cast<int64_t>(kept_columns.size()); }
  int64_t dense_count() const { return columns - kept_count(); }
  bool has_column(int64_t place) const { return order.empty() || order[static_cast<size_t>(place)] >= 0; }
  int64_t inputs() const { return order.empty() ? dense_count() : static_cast<int64_t>(order.size()); }
};

// The prepared input of M tokens: scratch that is reused from call to call.
struct PreparedInput {
  int64_t count = 0;         // M
  const float* x = nullptr;  // float input of the dense columns; null where it is not read as floats
  int64_t x_stride = 0;
  AlignedBuffer<uint8_t> codes;
  AlignedBuffer<float> scales, kept, dense;
  AlignedBuffer<uint16_t> halves, kept_halves;  // in bf16: the dense columns, rounded as planned, and the kept ones
  AlignedBuffer<int32_t> zeros, sums;
  int64_t stride = 0, sum_stride = 0, kept_stride = 0, kept_halves_stride = 0;
  // For single weights, the values that the kernels read, or that they would if they were not quantized: of one token
  // [inputs], else [M / 16][inputs][16].
  AlignedBuffer<float> columns;
  AlignedBuffer<float> room;  // a row for each thread, before and after it is split
};

// Gives the row of token m, plan.columns values: makes it in `room`, or says where it lies. Any thread calls it, once
// for each token, so that a row is made, split and quantized while it is in the nearest cache.
using RowSource = FunctionRef<const float*(int64_t m, float* room)>;

// Splits, rotates and quantizes the input of a site, as far as the plan says so (at least its rows are made).
void prepare(const InputPlan& plan, RowSource rows, int64_t m, Isa isa, PreparedInput& out, ThreadPool& pool);
// The same for rows that lie in a matrix x: [M][x_stride]. Where the plan asks for nothing, nothing is copied:
// `x` must outlive `out`'s use.
void prepare(const InputPlan& plan, const float* x, int64_t x_stride, int64_t m, Isa isa, PreparedInput& out,
             ThreadPool& pool);

// The kernels that `isa` runs on a token's row.
const TokenKernels& token_kernels(Isa isa);

}  // namespace nibble
