// Learned levels for quantized input: what coded integers, or the 8-bit layout (kernels/abi/linear.h), hold of them.
// Internal to packing.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "kernels/pack_coded.h"

namespace nibble {

// Inputs of a group of coded integers with its padding: whole units, or whole tiles (64) where that costs little.
int64_t padded_level_group(int64_t group_size, int64_t groups);

// The shape of coded integers for a dense part of so many columns. Empty where levels are packed instead, 8 bits each:
// groups with a table of their own that do not consist of units.
std::optional<CodedLayout> level_layout(const NumberFormat& format, std::span<const uint8_t> widths,
                                        int64_t dense_columns, int64_t panels);

// Fills either layout from a weight, lane by lane.
class LevelPacker {
 public:
  // Where the arrays of `dense` lie, which hold zeros; `order` is that of its inputs.
  struct Arrays {
    uint8_t* codes;
    int8_t* tables;
    float* scales;
    int32_t* sums;
  };
  LevelPacker(const LinearWeight& weight, const PackedDense& dense, std::span<const int32_t> order, Arrays to);

  // The tables that all panels read, where there are such.
  void pack_tables() const;
  // Codes, scales, sums and the row's tables of an output.
  void pack_lane(int64_t panel, int64_t lane) const;

 private:
  bool by_column() const { return weight_.format.sharing == Sharing::column; }
  int64_t column_of(int64_t k) const { return order_.empty() ? k : order_[static_cast<size_t>(k)]; }
  std::vector<int8_t> levels_of_row(int64_t n, std::span<const uint8_t> codes) const;
  void store_levels(int64_t panel, int64_t lane, std::span<const int8_t> levels) const;
  void store_segment(const CodedSegment& segment, int64_t end, int64_t panel, int64_t lane,
                     std::span<const uint8_t> codes, std::span<const int8_t> levels) const;
  void store_row_tables(int64_t panel, int64_t lane) const;

  const LinearWeight& weight_;
  const PackedDense& dense_;
  std::span<const int32_t> order_;
  Arrays to_;
  std::vector<int8_t> levels_;    // with tables by column: of all columns, by code
  std::vector<size_t> level_at_;  // where those of a column begin
};

}  // namespace nibble
