// The contract of the probes that find the peak of a multiplier. Leaf header: plain structs only.
//
// A multiplier is what one instruction of one instruction set does for one type of numbers: vpdpbusd of AVX-512 is one,
// the tile product of the same bytes another. A probe runs nothing but that instruction, on registers, with enough
// independent sums to fill its pipeline: what it reaches is what no kernel on that multiplier can exceed.
#pragma once

#include <cstdint>

namespace nibble {

// What is multiplied: bytes into 32-bit sums, bfloat16 into f32 sums, f32 and f64 into sums of their own type.
enum class Arithmetic : uint8_t { int8, bf16, f32, f64 };

struct ProbeRow {
  Arithmetic arithmetic;
  const char* instruction;  // e.g. "vpdpbusd zmm"
  int64_t operations;       // of one turn; a multiply-add counts two
  void (*run)(int64_t turns);
};

}  // namespace nibble
