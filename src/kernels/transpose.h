// Rows to panels: the innermost loops of packing. Sixteen rows, one to a lane, become [unit][lane].
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/abi/linear.h"

namespace nibble {

// Where the rows of a panel begin; the bytes need no alignment. Rows beyond the matrix may point at any row: their
// lanes are filled too.
using PanelRows = std::array<const std::byte*, kLanes>;

// out[i * 16 + lane] = value i of the lane's row, for values of 2 and 4 bytes. `out` is aligned to 16 bytes.
void transpose_values(const PanelRows& rows, int64_t count, uint16_t* out);
void transpose_values(const PanelRows& rows, int64_t count, uint32_t* out);

// Runs of 8-bit codes, first + `count` of every row, as steps of four levels: out[step][lane][4] with level = code -
// 128; the sums of the levels are written to sums[lane]. `count` is a multiple of 16.
void pack_bytes(const PanelRows& rows, int64_t first, int64_t count, uint8_t* out, int32_t* sums);

// Runs of 4-bit codes of two panels, two to a byte in the rows, as out[step][lane][4]: the first panel's code in the
// low nibble, the second's code - 8 in the high one. sums[0] and sums[1] receive the sums of code - 8. `first` and
// `count` are multiples of 32.
void pack_nibbles(const PanelRows& first_rows, const PanelRows& second_rows, int64_t first, int64_t count, uint8_t* out,
                  int32_t* const sums[2]);

}  // namespace nibble
