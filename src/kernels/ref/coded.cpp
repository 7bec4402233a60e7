#include "kernels/ref/coded.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

uint16_t load_word(const uint8_t* unit, int64_t vector, int64_t word) {
  uint16_t value;
  std::memcpy(&value, unit + vector * 64 + word * 2, sizeof value);
  return value;
}

void or_word(uint8_t* unit, int64_t vector, int64_t word, int bits) {
  const auto value = static_cast<uint16_t>(load_word(unit, vector, word) | bits);
  std::memcpy(unit + vector * 64 + word * 2, &value, sizeof value);
}

// Of the bits that codes of 5 and 6 bits have above the lowest four.
BitPlace upper_place(int64_t bits, CodePlace place) {
  const int64_t above = bits - 4, in_word = 16 / above;
  return {4 + place.lookup / in_word, place.word, place.lookup % in_word * above};
}

// 1 for formats without scales.
float block_scale(const PackedDense& dense, int64_t panel, int64_t lane, int64_t k) {
  if (dense.scales == nullptr) return 1;
  const int64_t block = std::min(k / dense.group_size, dense.groups - 1);
  const uint8_t byte = static_cast<const uint8_t*>(dense.scales)[(panel * dense.groups + block) * kLanes + lane];
  if (!dense.e4m3) return byte == 0 ? std::ldexp(1.0f, -127) : std::bit_cast<float>(uint32_t{byte} << 23);
  return f16_to_f32(static_cast<uint16_t>(byte << 7)) * dense.factor;  // exponents have a bias of 15, not 7
}

}  // namespace

BitPlace bit_place(CodedTables tables_of, int64_t bits, CodePlace place) {
  const int64_t in_word = 16 / bits, vector = place.lookup / in_word;
  if (bits != 2 || tables_of != CodedTables::columns) return {vector, place.word, place.lookup % in_word * bits};
  const int64_t bit = place.lookup % 8 * 4 + place.word % 2 * 2;  // of a dword
  return {vector, place.word / 2 * 2 + bit / 16, bit % 16};
}

CodePlace code_place(CodedTables tables_of, int64_t bits, int64_t lane, int64_t input) {
  if (tables_of != CodedTables::rows) return {input / 2, lane * 2 + input % 2};
  const int64_t entries = int64_t{1} << bits, lanes = 32 / entries;  // of a table; in a register
  return {input / entries * (entries / 2) + lane / lanes, lane % lanes * entries + input % entries};
}

const CodedSegment& segment_at(const PackedDense& dense, int64_t k) {
  int64_t s = 0;
  while (s + 1 < dense.segment_count && dense.segments[s + 1].begin <= k) ++s;
  return dense.segments[s];
}

int64_t unit_at(const CodedSegment& segment, int64_t k) {
  return segment.offset + (k - segment.begin) / kUnitInputs * 64 * segment.bits;
}

uint8_t load_code(const uint8_t* unit, CodedTables tables_of, int64_t bits, CodePlace place) {
  if (bits == 5 || bits == 6) {
    const BitPlace at = upper_place(bits, place);
    const int upper = load_word(unit, at.vector, at.word) >> at.shift & ((1 << (bits - 4)) - 1);
    return static_cast<uint8_t>(upper << 4 | load_code(unit, tables_of, 4, place));
  }
  if (is_scattered(bits, place.lookup)) {
    int code = 0;
    for (int64_t i = 0; i < 3; ++i) code |= (load_word(unit, i, place.word) >> 15) << i;
    return static_cast<uint8_t>(code);
  }
  const BitPlace at = bit_place(tables_of, bits, place);
  return static_cast<uint8_t>(load_word(unit, at.vector, at.word) >> at.shift & ((1 << bits) - 1));
}

void store_code(uint8_t* unit, CodedTables tables_of, int64_t bits, CodePlace place, uint8_t code) {
  if (bits == 5 || bits == 6) {
    const BitPlace at = upper_place(bits, place);
    or_word(unit, at.vector, at.word, (code >> 4) << at.shift);
    return store_code(unit, tables_of, 4, place, code & 15);
  }
  if (is_scattered(bits, place.lookup)) {
    for (int64_t i = 0; i < 3; ++i) or_word(unit, i, place.word, (code >> i & 1) << 15);
    return;
  }
  const BitPlace at = bit_place(tables_of, bits, place);
  or_word(unit, at.vector, at.word, code << at.shift);
}

uint16_t coded_value(const PackedDense& dense, int64_t panel, int64_t lane, int64_t k) {
  const CodedSegment& segment = segment_at(dense, k);
  const uint8_t* unit = static_cast<const uint8_t*>(dense.codes) + panel * dense.panel_bytes + unit_at(segment, k);
  const int64_t input = (k - segment.begin) % kUnitInputs;
  const CodePlace place = code_place(dense.tables_of, segment.bits, lane, input);
  const int64_t code = load_code(unit, dense.tables_of, segment.bits, place);
  const bool integer = segment.bits == 8 && dense.integer_codes;
  const auto level = static_cast<float>(static_cast<int8_t>(code));  // where it is an integer
  switch (dense.tables_of) {
    case CodedTables::columns: {
      if (integer) return f32_to_bf16(level * bf16_to_f32(dense.tables[k * 16]));
      if (segment.bits == 2) return dense.tables[k / 2 * 32 + (k % 2 == 0 ? code * 2 : code * 8 + 1)];
      return dense.tables[k * 16 + code];
    }
    case CodedTables::rows: {
      const int64_t table = (panel * dense.groups + std::min(k / dense.group_size, dense.groups - 1)) * kLanes + lane;
      return dense.tables[(table << segment.bits) + code];
    }
    case CodedTables::matrix: {
      const float value = integer ? level * bf16_to_f32(dense.tables[0]) : bf16_to_f32(dense.tables[code]);
      return f32_to_bf16(value * block_scale(dense, panel, lane, k));
    }
  }
  return 0;
}

void open_codes(const PackedDense& dense, int64_t panel, int64_t begin, int64_t end, uint16_t* to) {
  for (int64_t k = begin; k < end; k += 2)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      for (int64_t i : {0, 1}) *to++ = coded_value(dense, panel, lane, k + i);
}

CodePlace level_place(CodedTables tables_of, int64_t bits, int64_t lane, int64_t input) {
  if (tables_of == CodedTables::columns || bits == 8) return {input / 4, lane * 4 + input % 4};
  return {input / 16 * 4 + lane % 4, lane / 4 * 16 + input % 16};
}

uint8_t load_level_code(const uint8_t* unit, int64_t bits, CodePlace place) {
  const uint8_t* const bytes = unit + place.word;
  if (bits == 3 && place.lookup >= 6) {
    const int both = bytes[0] >> 6 | bytes[64] >> 6 << 2 | bytes[128] >> 6 << 4;
    return static_cast<uint8_t>(both >> (place.lookup - 6) * 3 & 7);
  }
  const int64_t in_byte = 8 / bits;
  return static_cast<uint8_t>(bytes[place.lookup / in_byte * 64] >> place.lookup % in_byte * bits & ((1 << bits) - 1));
}

void store_level_code(uint8_t* unit, int64_t bits, CodePlace place, uint8_t code) {
  uint8_t* const bytes = unit + place.word;
  const auto set = [&](int64_t vector, int64_t shift, int what) {
    bytes[vector * 64] = static_cast<uint8_t>(bytes[vector * 64] | what << shift);
  };
  if (bits == 3 && place.lookup >= 6) {
    for (int64_t i = 0, bit = (place.lookup - 6) * 3; i < 3; ++i, ++bit) set(bit / 2, 6 + bit % 2, code >> i & 1);
    return;
  }
  const int64_t in_byte = 8 / bits;
  set(place.lookup / in_byte, place.lookup % in_byte * bits, code);
}

int64_t column_entry(int64_t bits, int64_t k, int64_t code) { return k / 4 * 64 + (k % 4 << bits) + code; }

int64_t row_entry(const PackedDense& dense, int64_t panel, int64_t lane, int64_t g, int64_t code) {
  const int64_t table = (panel * dense.groups + g) * kLanes + lane % 4 * 4 + lane / 4;
  return (table << dense.segments[0].bits) + code;
}

int8_t coded_level(const PackedDense& dense, int64_t panel, int64_t lane, int64_t k) {
  const CodedSegment& segment = segment_at(dense, k);
  const uint8_t* unit = static_cast<const uint8_t*>(dense.codes) + panel * dense.panel_bytes + unit_at(segment, k);
  const int64_t input = (k - segment.begin) % kUnitInputs;
  const uint8_t code = load_level_code(unit, segment.bits, level_place(dense.tables_of, segment.bits, lane, input));
  if (segment.bits == 8) return static_cast<int8_t>(code);
  const int64_t g = k / 4 / dense.group_steps;
  return dense.level_tables[dense.tables_of == CodedTables::columns ? column_entry(segment.bits, k, code)
                                                                    : row_entry(dense, panel, lane, g, code)];
}

void open_levels(const PackedDense& dense, int64_t panel, int8_t* to) {
  for (int64_t k = 0; k < dense.groups * dense.group_steps * 4; k += 4)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      for (int64_t i = 0; i < 4; ++i) *to++ = coded_level(dense, panel, lane, k + i);
}

}  // namespace nibble::ref
