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
  std::vector<int32_t> order;  // as InputPlan has it
  int64_t inputs = 0;          // padding between segments included
  int64_t panel_bytes = 0;
  int64_t table_values = 0;    // of all tables together
  bool integer_codes = false;  // those of 8 bits
};

// Of a dense part of so many columns; `widths`: their bits, where they have their own. Empty where values are packed
// instead, 16 bits each: runs with a table or a scale of their own that do not consist of units (halves of them, for
// scales).
std::optional<CodedLayout> coded_layout(const NumberFormat& format, std::span<const uint8_t> widths,
                                        int64_t dense_columns, int64_t panels);

// PackedDense::first_plain_scale and last_plain_scale of a table of the matrix.
struct PlainScales {
  uint8_t first = 1, last = 0;
};
PlainScales plain_scales(std::span<const uint16_t> table);

// Fills a coded layout from a weight, panel by panel.
//
// The least bits of bfloat16 numbers are 2^-133. A block whose scale is so small that its format has products with
// lower bits is stored with the least scale that has none, and with the codes of its numbers rounded to bfloat16: they
// are levels, since these are evenly spaced near zero, or powers of two. So kernels need not round.
class CodePacker {
 public:
  // `dense` has the layout, `order` that of its inputs; `tables` and `scales` are where these go, which hold zeros.
  CodePacker(const LinearWeight& weight, const PackedDense& dense, std::span<const int32_t> order, uint16_t* tables,
             uint8_t* scales);

  // The tables that all panels read, where there are such.
  void pack_tables();
  // Lane `lane` of a panel, whose codes begin at `panel_codes` and hold zeros.
  void pack_lane(int64_t panel, int64_t lane, uint8_t* panel_codes) const;

 private:
  int bits_of(int64_t column) const;
  void pack_matrix_table();
  uint8_t stored(uint8_t code) const;
  // What is stored of codes of the block whose scale is `exact` instead of `scale`.
  uint8_t stored_under(float exact, float scale, uint8_t code) const;
  void pack_scales(int64_t panel, int64_t lane, std::span<uint8_t> codes) const;
  void pack_segment(const CodedSegment& segment, int64_t end, int64_t lane, std::span<const uint8_t> codes,
                    uint8_t* panel_codes) const;
  uint8_t level_of(int64_t column, uint8_t code) const;
  void pack_row_tables(int64_t panel, int64_t lane) const;

  const LinearWeight& weight_;
  const PackedDense& dense_;
  std::span<const int32_t> order_;
  uint16_t* tables_;
  uint8_t* scales_;
  float least_scale_ = 0;                 // whose products are exact; with the matrix's table
  std::vector<int64_t> level_of_column_;  // where in weight.levels; with tables by column
};

}  // namespace nibble
