#include "kernels/pack_coded.h"

#include <algorithm>
#include <array>

#include "core/checked.h"
#include "core/half.h"
#include "kernels/ref/coded.h"

namespace nibble {
namespace {

constexpr int64_t kMostBits = 4, kLeastBits = 2;  // of a code
constexpr int64_t kEntries = 16;                  // of a table of columns or of the matrix, as stored
constexpr int64_t kVectorBytes = 64;

void add_segment(CodedLayout& layout, int64_t inputs, int64_t bits) {
  layout.inputs = round_up(layout.inputs, kUnitInputs);
  layout.segments.push_back({layout.inputs, layout.panel_bytes, bits});
  layout.inputs += inputs;
  layout.panel_bytes += ceil_div(inputs, kUnitInputs) * bits * kVectorBytes;
}

std::optional<CodedLayout> block_layout(const NumberFormat& format, int64_t columns, int64_t panels) {
  constexpr int64_t kHalfUnit = kUnitInputs / 2;
  const int64_t groups = format.groups(columns);
  if (format.bits > kMostBits || (groups > 1 && format.group % kHalfUnit != 0)) return {};
  CodedLayout layout;
  layout.groups = groups;
  layout.group_size = groups > 1 ? format.group : std::max<int64_t>(1, columns);
  layout.scaled = format.scale != ScaleCodec::none;
  layout.e4m3 = format.scale == ScaleCodec::e4m3;
  layout.table_values = kEntries;
  (void)panels;
  add_segment(layout, columns, std::max<int64_t>(kLeastBits, format.bits));
  return layout;
}

}  // namespace

std::optional<CodedLayout> coded_layout(const NumberFormat& format, int64_t dense_columns, int64_t panels) {
  if (dense_columns == 0) return {};
  if (format.is_block()) return block_layout(format, dense_columns, panels);
  return {};
}

void store_codes(const PackedDense& dense, std::span<const uint8_t> codes, int64_t lane, uint8_t* panel) {
  for (size_t i = 0; i < codes.size(); ++i) {
    const auto k = static_cast<int64_t>(i);
    const CodedSegment& segment = ref::segment_at(dense, k);
    const ref::CodePlace place =
        ref::code_place(dense.tables_of, segment.bits, lane, (k - segment.begin) % kUnitInputs);
    ref::store_code(panel + ref::unit_at(segment, k), segment.bits, place, codes[i]);
  }
}

void fill_matrix_table(const NumberFormat& format, uint16_t* table) {
  const Grid grid = block_grid(format, 1, 1);
  for (int32_t i = 0; i < kEntries; ++i) table[i] = f32_to_bf16(grid.decode(i % static_cast<int32_t>(format.levels_count())));
}

}  // namespace nibble
