#include "kernels/pack_coded.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/checked.h"
#include "core/half.h"
#include "kernels/ref/coded.h"

namespace nibble {
namespace {

constexpr int64_t kMostBits = 4, kLeastBits = 2, kWideBits = 16;  // of a stored code; of a value
constexpr int64_t kEntries = 16;                                  // of a table of columns or of the matrix, as stored
constexpr int64_t kVectorBytes = 64, kHalfUnit = kUnitInputs / 2;

int64_t stored_bits(int64_t bits) { return bits > kMostBits ? kWideBits : std::max(bits, kLeastBits); }

void add_segment(CodedLayout& layout, int64_t inputs, int64_t bits) {
  layout.inputs = round_up(layout.inputs, kUnitInputs);
  layout.segments.push_back({layout.inputs, layout.panel_bytes, bits});
  layout.inputs += inputs;
  layout.panel_bytes += ceil_div(inputs, kUnitInputs) * bits * kVectorBytes;
}

// Columns by width, those of a width in order.
void add_by_width(CodedLayout& layout, std::span<const uint8_t> widths) {
  for (int64_t bits : {int64_t{2}, int64_t{3}, int64_t{4}, kWideBits}) {
    std::vector<int32_t> columns;
    for (size_t k = 0; k < widths.size(); ++k)
      if (stored_bits(widths[k]) == bits) columns.push_back(static_cast<int32_t>(k));
    if (columns.empty()) continue;
    layout.order.resize(static_cast<size_t>(round_up(layout.inputs, kUnitInputs)), -1);
    layout.order.insert(layout.order.end(), columns.begin(), columns.end());
    add_segment(layout, static_cast<int64_t>(columns.size()), bits);
  }
  if (layout.segments.size() == 1) layout.order.clear();
}

// Whether groups, where there are several, are multiples of `run` inputs.
bool fits(const NumberFormat& format, int64_t columns, int64_t run) {
  return format.groups(columns) == 1 || format.group % run == 0;
}

}  // namespace

std::optional<CodedLayout> coded_layout(const NumberFormat& format, std::span<const uint8_t> widths,
                                        int64_t dense_columns, int64_t panels) {
  const bool by_column = format.sharing == Sharing::column;
  if (dense_columns == 0 || format.bits > kMostBits || !(format.is_block() || format.is_learned())) return {};
  if (!by_column && !fits(format, dense_columns, format.is_block() ? kHalfUnit : kUnitInputs)) return {};
  CodedLayout layout;
  layout.tables_of = format.is_block() ? CodedTables::matrix : by_column ? CodedTables::columns : CodedTables::rows;
  layout.groups = by_column ? 1 : format.groups(dense_columns);
  layout.group_size = layout.groups > 1 ? format.group : dense_columns;
  if (format.bits == 0) {
    add_by_width(layout, widths);
  } else {
    add_segment(layout, dense_columns, stored_bits(format.bits));
  }
  switch (layout.tables_of) {
    case CodedTables::columns: layout.table_values = round_up(layout.inputs, kUnitInputs) * kEntries; break;
    case CodedTables::rows: layout.table_values = (panels * layout.groups * kLanes) << stored_bits(format.bits); break;
    case CodedTables::matrix: layout.table_values = kEntries; break;
  }
  return layout;
}

CodePacker::CodePacker(const LinearWeight& weight, const PackedDense& dense, std::span<const int32_t> order,
                       uint16_t* tables, uint8_t* scales)
    : weight_(weight), dense_(dense), order_(order), tables_(tables), scales_(scales) {
  if (dense.tables_of != CodedTables::columns) return;
  int64_t at = 0;
  for (int64_t column = 0; column < weight.dense_columns(); ++column) {
    level_of_column_.push_back(at);
    at += bits_of(column) > kTableBits ? 0 : int64_t{1} << bits_of(column);
  }
}

int CodePacker::bits_of(int64_t column) const {
  return weight_.widths.empty() ? weight_.format.bits : weight_.widths[static_cast<size_t>(column)];
}

void CodePacker::pack_tables() {
  if (dense_.tables_of == CodedTables::matrix) {
    const Grid grid = block_grid(weight_.format, 1, 1);
    const auto count = static_cast<int32_t>(weight_.format.levels_count());
    for (int32_t i = 0; i < kEntries; ++i) tables_[i] = f32_to_bf16(grid.decode(i % count));
  }
  if (dense_.tables_of != CodedTables::columns) return;
  for (int64_t k = 0; k < dense_.k; ++k) {
    const int64_t column = order_.empty() ? k : order_[static_cast<size_t>(k)];
    if (column < 0 || bits_of(column) > kTableBits) continue;
    const int64_t stored = ref::segment_at(dense_, k).bits, levels = int64_t{1} << bits_of(column);
    for (int64_t i = 0; i < kEntries; ++i) {
      const int64_t code = stored == 2 && k % 2 == 1 ? i / 4 : i % (int64_t{1} << stored);
      const int64_t at = stored == 2 ? k / 2 * 2 * kEntries + i * 2 + k % 2 : k * kEntries + i;
      const int64_t level = level_of_column_[static_cast<size_t>(column)] + code;
      if (code < levels) tables_[at] = f32_to_bf16(weight_.levels[static_cast<size_t>(level)]);
    }
  }
}

// Of a column without a table.
uint16_t CodePacker::value_of(int64_t column, uint8_t code) const {
  const int exponent = weight_.exponents[static_cast<size_t>(column)];
  return f32_to_bf16(Grid::without_table(exponent, bits_of(column)).decode(code));
}

void CodePacker::pack_lane(int64_t panel, int64_t lane, uint8_t* panel_codes) const {
  if (dense_.tables_of == CodedTables::rows) pack_row_tables(panel, lane);
  if (dense_.tables_of == CodedTables::matrix) pack_scales(panel, lane);
  std::vector<uint8_t> codes(static_cast<size_t>(weight_.dense_columns()));
  decode_codes(weight_, panel * kLanes + lane, codes);
  for (int64_t s = 0; s < dense_.segment_count; ++s) {
    const int64_t end = s + 1 < dense_.segment_count ? dense_.segments[s + 1].begin : dense_.k;
    pack_segment(dense_.segments[s], end, lane, codes, panel_codes);
  }
}

void CodePacker::pack_segment(const CodedSegment& segment, int64_t end, int64_t lane, std::span<const uint8_t> codes,
                              uint8_t* panel_codes) const {
  struct Place {
    ref::CodePlace code;
    int64_t byte, shift;  // of the word; not where the code is scattered
  };
  std::array<Place, static_cast<size_t>(kUnitInputs)> places;
  for (size_t i = 0; i < places.size(); ++i) {
    const ref::CodePlace code = ref::code_place(dense_.tables_of, segment.bits, lane, static_cast<int64_t>(i));
    const ref::BitPlace at = ref::bit_place(dense_.tables_of, segment.bits, code);
    places[i] = {code, at.vector * kVectorBytes + at.word * 2, at.shift};
  }
  uint8_t* unit = panel_codes + segment.offset;
  for (int64_t begin = segment.begin; begin < end; begin += kUnitInputs, unit += segment.bits * kVectorBytes)
    for (int64_t k = begin; k < std::min(end, begin + kUnitInputs); ++k) {
      const int64_t column = order_.empty() ? k : order_[static_cast<size_t>(k)];
      if (column < 0) continue;
      const Place& place = places[static_cast<size_t>(k - begin)];
      const uint8_t code = codes[static_cast<size_t>(column)];
      if (ref::is_scattered(segment.bits, place.code.lookup)) {
        ref::store_code(unit, dense_.tables_of, segment.bits, place.code, code);
        continue;
      }
      const int stored = segment.bits == kWideBits ? value_of(column, code) : code;
      uint16_t word;
      std::memcpy(&word, unit + place.byte, sizeof word);
      word = static_cast<uint16_t>(word | stored << place.shift);
      std::memcpy(unit + place.byte, &word, sizeof word);
    }
}

void CodePacker::pack_row_tables(int64_t panel, int64_t lane) const {
  const int64_t n = panel * kLanes + lane, levels = weight_.format.levels_count();
  for (int64_t g = 0; g < dense_.groups; ++g)
    for (int64_t i = 0; i < levels; ++i)
      tables_[(((panel * dense_.groups + g) * kLanes + lane) << dense_.segments[0].bits) + i] =
          f32_to_bf16(weight_.levels[static_cast<size_t>((n * dense_.groups + g) * levels + i)]);
}

// Formats without scales have one of 1.
void CodePacker::pack_scales(int64_t panel, int64_t lane) const {
  const int64_t n = panel * kLanes + lane;
  for (int64_t b = 0; b < dense_.groups; ++b)
    scales_[(panel * dense_.groups + b) * kLanes + lane] =
        weight_.scales.empty()
            ? scale_byte(1, ScaleCodec::power)
            : scale_byte(weight_.scales[static_cast<size_t>(n * dense_.groups + b)], weight_.format.scale);
}

}  // namespace nibble
