// Which layers keep their codes, and what a coded layout (kernels/abi/linear.h) holds of them. Internal to packing.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "format/linear_weight.h"
#include "kernels/abi/linear.h"

namespace nibble {

// The shape of a coded layout.
struct CodedLayout {
  CodedTables tables_of = CodedTables::matrix;
  int64_t group_size = 0, groups = 1;  // inputs that share a table (rows), or a scale (matrix)
  std::vector<CodedSegment> segments;
  int64_t inputs = 0;        // padding between segments included
  int64_t panel_bytes = 0;
  int64_t table_values = 0;  // of all tables, for so many panels
  bool scaled = false;       // matrix: has scales
  bool e4m3 = false;
};

// Of a dense part of so many columns; empty where its values are packed instead, 16 bits each: codes wider than four
// bits, and runs with a table or a scale of their own that units of inputs, or halves of them, do not fit.
std::optional<CodedLayout> coded_layout(const NumberFormat& format, int64_t dense_columns, int64_t panels);

// One output's codes, [inputs] in packed order, into its lane of a panel that held zeros.
void store_codes(const PackedDense& dense, std::span<const uint8_t> codes, int64_t lane, uint8_t* panel);

// The table of a block format's matrix: [16].
void fill_matrix_table(const NumberFormat& format, uint16_t* table);

}  // namespace nibble
