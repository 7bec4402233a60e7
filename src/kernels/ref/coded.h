// Coded layouts (kernels/abi/linear.h), one code at a time: the definition, which packing writes by and everything else
// is compared with.
#pragma once

#include "kernels/abi/linear.h"

namespace nibble::ref {

// Where the code of an input of a unit lies: a lookup and its word, or of coded integers its byte.
struct CodePlace {
  int64_t lookup, word;
};
CodePlace code_place(CodedTables tables_of, int64_t bits, int64_t lane, int64_t input);

// Whether its bits are in several words (3 bits, lookup 15; 5 and 6 bits); else where the lowest one is: word `word` of
// vector `vector`.
constexpr bool is_scattered(int64_t bits, int64_t lookup) {
  return (bits == 3 && lookup == 15) || bits == 5 || bits == 6;
}
struct BitPlace {
  int64_t vector, word, shift;
};
BitPlace bit_place(CodedTables tables_of, int64_t bits, CodePlace place);

// The segment that input k lies in, and where the unit of it begins in a panel's bytes.
const CodedSegment& segment_at(const PackedDense& dense, int64_t k);
int64_t unit_at(const CodedSegment& segment, int64_t k);

// A code of a unit; and back into zeros.
uint8_t load_code(const uint8_t* unit, CodedTables tables_of, int64_t bits, CodePlace place);
void store_code(uint8_t* unit, CodedTables tables_of, int64_t bits, CodePlace place, uint8_t code);

// Bits of the bfloat16 number of a lane's input k, k up to the last unit's end.
uint16_t coded_value(const PackedDense& dense, int64_t panel, int64_t lane, int64_t k);

// Of coded integers: the lookup and the byte of it that hold the code of an input of a unit, or with 8 bits its level.
CodePlace level_place(CodedTables tables_of, int64_t bits, int64_t lane, int64_t input);
// That code, and back into zeros.
uint8_t load_level_code(const uint8_t* unit, int64_t bits, CodePlace place);
void store_level_code(uint8_t* unit, int64_t bits, CodePlace place, uint8_t code);
// Where in the tables of coded integers an entry lies: of input k, or of a lane and the table's number in its row.
int64_t column_entry(int64_t bits, int64_t k, int64_t code);
int64_t row_entry(const PackedDense& dense, int64_t panel, int64_t lane, int64_t g, int64_t code);
// The level of a lane's input k, k up to the last unit's end.
int8_t coded_level(const PackedDense& dense, int64_t panel, int64_t lane, int64_t k);

}  // namespace nibble::ref
