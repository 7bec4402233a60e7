// What this processor and this operating system can run.
#pragma once

#include <string>

#include "core/result.h"

namespace nibble {

// Instruction sets in ascending order; each level contains those below it.
enum class Isa { portable = 0, avx2, avx512vnni, avx512bf16, amx };
inline constexpr Isa kAllIsas[] = {Isa::portable, Isa::avx2, Isa::avx512vnni, Isa::avx512bf16, Isa::amx};

// Read once from CPUID and XGETBV: avx2 also needs FMA and F16C; avx512vnni needs F, BW, VL, DQ and VNNI; amx needs
// tiles of 8-bit integers and of bfloat16, and the system's permission to use them, which the first call asks for.
Isa detected_isa();
// detected_isa(), or what NIBBLE_ISA names (one of kAllIsas); asking for more than there is, or for
// another name, is an `unsupported` error.
Result<Isa> selected_isa();
std::string to_string(Isa isa);

}  // namespace nibble
