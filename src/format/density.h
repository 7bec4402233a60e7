// A gate-level estimate of what a multiply-add costs in a number format. A model with stated assumptions: it says how
// formats compare in hardware made for them, nothing about this or any processor.
#pragma once

#include "format/number_format.h"

namespace nibble {

// Area of one multiply-add with both operands in the format, in gates of two inputs. Counted are, as textbooks build
// them (Weste and Harris, CMOS VLSI Design, chapter 11): array multipliers (an AND per pair of bits, a full adder of 5
// gates for all but one row), ripple adders, barrel shifters (a multiplexer of 3 gates per bit and doubling),
// leading-zero counters (2 gates a bit). Registers, wires and control are left out.
//
//   float32   a 24 x 24 multiplier, an exponent adder, alignment, addition and normalisation in 48 bits
//   integers, block floating point   a multiplier of the magnitudes and an addition into a sum as wide as the products
//             of a block need
//   minifloats   a multiplier of the significands, an exponent adder, a shifter over the exponents' range and an
//   addition
//             into a sum that holds all of it
//   powers    no multiplier: an exponent adder, a shifter over 32 bits and that addition
// What a block does once (adding exponents, converting its sum to float32 and adding that) is divided by its size; one
// sum over a row of 4096 likewise.
double multiply_add_gates(const NumberFormat& format);

}  // namespace nibble
