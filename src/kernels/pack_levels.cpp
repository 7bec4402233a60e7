#include "kernels/pack_levels.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/checked.h"
#include "kernels/ref/coded.h"

namespace nibble {
namespace {

constexpr int64_t kLeastBits = 2, kWideBits = 8, kVectorBytes = 64;
constexpr int64_t kColumnEntries = 16;  // bytes of the tables for each place

int64_t stored_bits(int64_t bits) { return bits > kTableBits ? kWideBits : std::max(bits, kLeastBits); }

// Of a grid whose values are level * 2^exponent.
void append_levels(const Grid& grid, int exponent, std::vector<int8_t>& to) {
  for (int32_t code = 0; code <= grid.most; ++code)
    to.push_back(static_cast<int8_t>(std::ldexp(grid.decode(code), -exponent)));
}

// Columns by stored width, those of a width in order; each width begins with a unit.
void add_by_width(CodedLayout& layout, std::span<const uint8_t> widths) {
  for (const int64_t bits : {int64_t{2}, int64_t{3}, int64_t{4}, kWideBits}) {
    std::vector<int32_t> columns;
    for (size_t k = 0; k < widths.size(); ++k)
      if (stored_bits(widths[k]) == bits) columns.push_back(static_cast<int32_t>(k));
    if (columns.empty()) continue;
    layout.order.resize(static_cast<size_t>(round_up(static_cast<int64_t>(layout.order.size()), kUnitInputs)), -1);
    layout.segments.push_back({static_cast<int64_t>(layout.order.size()), 0, bits});
    layout.order.insert(layout.order.end(), columns.begin(), columns.end());
  }
  layout.inputs = static_cast<int64_t>(layout.order.size());
  if (layout.segments.size() == 1) layout.order.clear();
}

}  // namespace

int64_t padded_level_group(int64_t group_size, int64_t groups) {
  constexpr int64_t kLong = 128;
  return round_up(group_size, groups == 1 && group_size > kLong ? 2 * kUnitInputs : kUnitInputs);
}

std::optional<CodedLayout> level_layout(const NumberFormat& format, std::span<const uint8_t> widths,
                                        int64_t dense_columns, int64_t panels) {
  const bool by_column = format.sharing == Sharing::column;
  const int64_t groups = by_column ? 1 : format.groups(dense_columns);
  if (dense_columns == 0 || (groups > 1 && format.group % kUnitInputs != 0)) return {};
  CodedLayout layout;
  layout.tables_of = by_column ? CodedTables::columns : CodedTables::rows;
  layout.inputs = dense_columns;
  if (format.bits == 0) {
    add_by_width(layout, widths);
  } else {
    layout.segments.push_back({0, 0, stored_bits(format.bits)});
  }
  layout.groups = groups;
  layout.group_size = groups > 1 ? format.group : layout.inputs;
  const int64_t all = groups * padded_level_group(layout.group_size, groups);
  for (size_t s = 0; s < layout.segments.size(); ++s) {
    CodedSegment& segment = layout.segments[s];
    segment.offset = layout.panel_bytes;
    const int64_t end = s + 1 < layout.segments.size() ? layout.segments[s + 1].begin : all;
    layout.panel_bytes += (end - segment.begin) / kUnitInputs * segment.bits * kVectorBytes;
  }
  // An odd number of lines, so that panels side by side do not fall into the same sets of the cache.
  layout.panel_bytes = kVectorBytes * (layout.panel_bytes / kVectorBytes | 1);
  layout.table_values = by_column ? all * kColumnEntries : (panels * groups * kLanes) << layout.segments[0].bits;
  return layout;
}

LevelPacker::LevelPacker(const LinearWeight& weight, const PackedDense& dense, std::span<const int32_t> order,
                         Arrays to)
    : weight_(weight), dense_(dense), order_(order), to_(to) {
  if (!by_column() || weight.rows == 0) return;
  const std::vector<Grid> grids = weight.grids(0);
  for (size_t column = 0; column < grids.size(); ++column) {
    level_at_.push_back(levels_.size());
    append_levels(grids[column], weight.exponents[column], levels_);
  }
}

void LevelPacker::pack_tables() const {
  if (dense_.type != PackedType::coded_integers || dense_.tables_of != CodedTables::columns) return;
  for (int64_t k = 0; k < dense_.k; ++k) {
    const int64_t column = column_of(k), bits = ref::segment_at(dense_, k).bits;
    if (column < 0 || bits == kWideBits || levels_.empty()) continue;
    const size_t begin = level_at_[static_cast<size_t>(column)];
    const int width = weight_.widths.empty() ? weight_.format.bits : weight_.widths[static_cast<size_t>(column)];
    for (int64_t i = 0; i < int64_t{1} << width; ++i)
      to_.tables[ref::column_entry(bits, k, i)] = levels_[begin + static_cast<size_t>(i)];
  }
}

void LevelPacker::pack_lane(int64_t panel, int64_t lane) const {
  const int64_t n = panel * kLanes + lane;
  std::vector<uint8_t> codes(static_cast<size_t>(weight_.dense_columns()));
  decode_codes(weight_, n, codes);
  const std::vector<int8_t> levels = levels_of_row(n, codes);
  for (int64_t g = 0; g < dense_.groups; ++g) {
    const int64_t entry = (panel * dense_.groups + g) * kLanes + lane,
                  end = std::min(dense_.k, (g + 1) * dense_.group_size);
    int32_t sum = 0;
    for (int64_t k = g * dense_.group_size; k < end; ++k)
      if (column_of(k) >= 0) sum += levels[static_cast<size_t>(column_of(k))];
    to_.sums[entry] = sum;
    to_.scales[entry] =
        by_column() ? 1.0f : std::ldexp(1.0f, weight_.exponents[static_cast<size_t>(n * dense_.groups + g)]);
  }
  if (dense_.type == PackedType::int8) return store_levels(panel, lane, levels);
  if (!by_column()) store_row_tables(panel, lane);
  for (int64_t s = 0; s < dense_.segment_count; ++s) {
    const int64_t end = s + 1 < dense_.segment_count ? dense_.segments[s + 1].begin : dense_.k;
    store_segment(dense_.segments[s], end, panel, lane, codes, levels);
  }
}

// By column, in their stored order.
std::vector<int8_t> LevelPacker::levels_of_row(int64_t n, std::span<const uint8_t> codes) const {
  std::vector<int8_t> levels;
  if (by_column()) {
    for (size_t column = 0; column < codes.size(); ++column)
      levels.push_back(levels_[level_at_[column] + codes[column]]);
    return levels;
  }
  std::vector<int8_t> table;
  const auto group = static_cast<size_t>(dense_.group_size);
  for (size_t begin = 0, g = 0; begin < codes.size(); begin += group, ++g) {
    const auto at = n * dense_.groups + static_cast<int64_t>(g);
    table.clear();
    append_levels(weight_.grid(n, static_cast<int64_t>(g)), weight_.exponents[static_cast<size_t>(at)], table);
    for (size_t k = begin; k < std::min(codes.size(), begin + group); ++k) levels.push_back(table[codes[k]]);
  }
  return levels;
}

void LevelPacker::store_levels(int64_t panel, int64_t lane, std::span<const int8_t> levels) const {
  for (int64_t k = 0; k < dense_.k; ++k) {
    const int64_t g = k / dense_.group_size, i = k % dense_.group_size;
    const int64_t step = (panel * dense_.groups + g) * dense_.group_steps + i / 4;
    to_.codes[step * kVectorBytes + lane * 4 + i % 4] = static_cast<uint8_t>(levels[static_cast<size_t>(k)]);
  }
}

void LevelPacker::store_segment(const CodedSegment& segment, int64_t end, int64_t panel, int64_t lane,
                                std::span<const uint8_t> codes, std::span<const int8_t> levels) const {
  std::array<ref::CodePlace, static_cast<size_t>(kUnitInputs)> places;
  for (size_t i = 0; i < places.size(); ++i)
    places[i] = ref::level_place(dense_.tables_of, segment.bits, lane, static_cast<int64_t>(i));
  for (int64_t k = segment.begin; k < end; ++k) {
    if (column_of(k) < 0) continue;
    const auto column = static_cast<size_t>(column_of(k));
    uint8_t* const unit = to_.codes + panel * dense_.panel_bytes + ref::unit_at(segment, k);
    const ref::CodePlace& place = places[static_cast<size_t>((k - segment.begin) % kUnitInputs)];
    const uint8_t code = segment.bits == kWideBits ? static_cast<uint8_t>(levels[column]) : codes[column];
    ref::store_level_code(unit, segment.bits, place, code);
  }
}

void LevelPacker::store_row_tables(int64_t panel, int64_t lane) const {
  const int64_t n = panel * kLanes + lane;
  std::vector<int8_t> table;
  for (int64_t g = 0; g < dense_.groups; ++g) {
    table.clear();
    append_levels(weight_.grid(n, g), weight_.exponents[static_cast<size_t>(n * dense_.groups + g)], table);
    for (size_t i = 0; i < table.size(); ++i)
      to_.tables[ref::row_entry(dense_, panel, lane, g, static_cast<int64_t>(i))] = table[i];
  }
}

}  // namespace nibble
