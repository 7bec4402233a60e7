#include "kernels/pack_coded.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/half.h"
#include "kernels/ref/coded.h"

namespace nibble {
namespace {

constexpr int64_t kLeastBits = 2, kWideBits = 8;  // of a stored code
constexpr int64_t kEntries = 16;                  // of a table of columns, and at least of one of the matrix, as stored
constexpr int64_t kVectorBytes = 64, kHalfUnit = kUnitInputs / 2;
constexpr int kLeastExponentOfBf16 = -133;

// Of a format's codes, and of those of a column.
int64_t stored_bits(int64_t bits) { return bits == 7 ? kWideBits : std::max(bits, kLeastBits); }
int64_t stored_bits_of_column(int64_t bits) { return bits > kTableBits ? kWideBits : stored_bits(bits); }

int64_t matrix_entries(int64_t stored) { return std::max(kEntries, int64_t{1} << stored); }

// The exponent of the lowest bit of x, not 0.
int lowest_bit(float x) {
  int exponent = 0;
  const auto digits = static_cast<uint32_t>(std::ldexp(std::fabs(std::frexp(x, &exponent)), 24));
  return exponent - 24 + std::countr_zero(digits);
}

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
      if (stored_bits_of_column(widths[k]) == bits) columns.push_back(static_cast<int32_t>(k));
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
  if (dense_columns == 0 || !(format.is_block() || format.is_learned())) return {};
  if (!by_column && !fits(format, dense_columns, format.is_block() ? kHalfUnit : kUnitInputs)) return {};
  CodedLayout layout;
  layout.tables_of = format.is_block() ? CodedTables::matrix : by_column ? CodedTables::columns : CodedTables::rows;
  layout.groups = by_column ? 1 : format.groups(dense_columns);
  layout.group_size = layout.groups > 1 ? format.group : dense_columns;
  layout.integer_codes = by_column || (format.levels == Levels::integer && format.bits == kWideBits);
  if (format.bits == 0) {
    add_by_width(layout, widths);
  } else {
    add_segment(layout, dense_columns, stored_bits(format.bits));
  }
  switch (layout.tables_of) {
    case CodedTables::columns: layout.table_values = round_up(layout.inputs, kUnitInputs) * kEntries; break;
    case CodedTables::rows: layout.table_values = (panels * layout.groups * kLanes) << stored_bits(format.bits); break;
    case CodedTables::matrix: layout.table_values = matrix_entries(stored_bits(format.bits)); break;
  }
  return layout;
}

PlainScales plain_scales(std::span<const uint16_t> table) {
  constexpr int kBias = 127, kNoNumber = 255;
  int least = kNoNumber - 1, most = 1;
  for (const uint16_t level : table) {
    const int exponent = level >> 7 & 0xFF;
    if (exponent == kNoNumber || (level & 0x7FFF) == 0) continue;
    if (exponent == 0) return {};  // subnormal
    least = std::min(least, exponent);
    most = std::max(most, exponent);
  }
  return {static_cast<uint8_t>(kBias + 1 - least > 0 ? kBias + 1 - least : 0),
          static_cast<uint8_t>(std::min(kNoNumber - 1, kBias + kNoNumber - 1 - most))};
}

CodePacker::CodePacker(const LinearWeight& weight, const PackedDense& dense, std::span<const int32_t> order,
                       uint16_t* tables, uint8_t* scales)
    : weight_(weight), dense_(dense), order_(order), tables_(tables), scales_(scales) {
  if (weight.format.is_block() && weight.format.scale == ScaleCodec::power) {
    const Grid grid = block_grid(weight.format, 1, 1);
    int lowest = 0;
    for (int32_t code = 0; code <= grid.most; ++code)
      if (const float level = grid.decode(code); std::isfinite(level) && level != 0)
        lowest = std::min(lowest, lowest_bit(level));
    least_scale_ = std::ldexp(1.0f, kLeastExponentOfBf16 - lowest);
  }
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

void CodePacker::pack_matrix_table() {
  const Grid grid = block_grid(weight_.format, 1, 1);
  if (dense_.integer_codes) {
    tables_[0] = f32_to_bf16(grid.scale);
    return;
  }
  const int64_t bits = dense_.segments[0].bits, count = weight_.format.levels_count();
  for (int64_t i = 0; i < matrix_entries(bits); ++i)
    if (i < count || bits <= kTableBits)
      tables_[stored(static_cast<uint8_t>(i))] = f32_to_bf16(grid.decode(static_cast<int32_t>(i % count)));
}

void CodePacker::pack_tables() {
  if (dense_.tables_of == CodedTables::matrix) return pack_matrix_table();
  if (dense_.tables_of != CodedTables::columns) return;
  for (int64_t k = 0; k < dense_.k; ++k) {
    const int64_t column = order_.empty() ? k : order_[static_cast<size_t>(k)];
    if (column < 0) continue;
    if (bits_of(column) > kTableBits) {
      tables_[k * kEntries] = f32_to_bf16(std::ldexp(1.0f, weight_.exponents[static_cast<size_t>(column)]));
      continue;
    }
    const int64_t stored = ref::segment_at(dense_, k).bits, levels = int64_t{1} << bits_of(column);
    for (int64_t i = 0; i < kEntries; ++i) {
      const int64_t code = stored == 2 && k % 2 == 1 ? i / 4 : i % (int64_t{1} << stored);
      const int64_t at = stored == 2 ? k / 2 * 2 * kEntries + i * 2 + k % 2 : k * kEntries + i;
      const int64_t level = level_of_column_[static_cast<size_t>(column)] + code;
      if (code < levels) tables_[at] = f32_to_bf16(weight_.levels[static_cast<size_t>(level)]);
    }
  }
}

// Of a code of a matrix. Where 8 bits hold 7, the sign moves to the highest one.
uint8_t CodePacker::stored(uint8_t code) const {
  if (dense_.integer_codes) return static_cast<uint8_t>(code - 128);
  return weight_.format.bits == 7 ? static_cast<uint8_t>((code & 63) | (code & 64) << 1) : code;
}

uint8_t CodePacker::stored_under(float exact, float scale, uint8_t code) const {
  const float value = bf16_to_f32(f32_to_bf16(block_grid(weight_.format, exact, 1).decode(code)));
  const int sign = code & 1 << (weight_.format.bits - 1);
  return static_cast<uint8_t>(sign | block_grid(weight_.format, scale, 1).encode(std::fabs(value)));
}

// Of a column without a table.
uint8_t CodePacker::level_of(int64_t column, uint8_t code) const {
  return static_cast<uint8_t>(static_cast<int32_t>(Grid::without_table(0, bits_of(column)).decode(code)));
}

void CodePacker::pack_lane(int64_t panel, int64_t lane, uint8_t* panel_codes) const {
  if (dense_.tables_of == CodedTables::rows) pack_row_tables(panel, lane);
  std::vector<uint8_t> codes(static_cast<size_t>(weight_.dense_columns()));
  decode_codes(weight_, panel * kLanes + lane, codes);
  if (!weight_.scales.empty()) pack_scales(panel, lane, codes);
  for (int64_t s = 0; s < dense_.segment_count; ++s) {
    const int64_t end = s + 1 < dense_.segment_count ? dense_.segments[s + 1].begin : dense_.k;
    pack_segment(dense_.segments[s], end, lane, codes, panel_codes);
  }
}

void CodePacker::pack_segment(const CodedSegment& segment, int64_t end, int64_t lane, std::span<const uint8_t> codes,
                              uint8_t* panel_codes) const {
  const bool columns = dense_.tables_of == CodedTables::columns, wide = segment.bits == kWideBits;
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
      uint8_t code = codes[static_cast<size_t>(column)];
      if (wide) code = columns ? level_of(column, code) : stored(code);
      if (ref::is_scattered(segment.bits, place.code.lookup)) {
        ref::store_code(unit, dense_.tables_of, segment.bits, place.code, code);
        continue;
      }
      uint16_t word;
      std::memcpy(&word, unit + place.byte, sizeof word);
      word = static_cast<uint16_t>(word | code << place.shift);
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

// Also rounds the codes of blocks whose products are not exact.
void CodePacker::pack_scales(int64_t panel, int64_t lane, std::span<uint8_t> codes) const {
  const int64_t n = panel * kLanes + lane;
  for (int64_t b = 0; b < dense_.groups; ++b) {
    const float exact = weight_.scales[static_cast<size_t>(n * dense_.groups + b)],
                scale = std::max(exact, least_scale_);
    scales_[(panel * dense_.groups + b) * kLanes + lane] = scale_byte(scale, weight_.format.scale);
    if (scale == exact) continue;
    const auto begin = static_cast<size_t>(b * dense_.group_size);
    for (uint8_t& code : codes.subspan(begin, std::min(static_cast<size_t>(dense_.group_size), codes.size() - begin)))
      code = stored_under(exact, scale, code);
  }
}

}  // namespace nibble
