// What this processor and this operating system can run.
#pragma once

#include <string>

#include "core/result.h"

namespace nibble {

// Instruction sets in ascending order; each level contains those below it.
enum class Isa { portable = 0, avx2 = 1, avx512vnni = 2 };

// Read once from CPUID and XGETBV: avx2 also needs FMA and F16C; avx512vnni needs F, BW, VL, DQ and VNNI.
Isa detected_isa();
// detected_isa(), or what NIBBLE_ISA names (portable, avx2, avx512vnni); asking for more than there is, or for
// another name, is an `unsupported` error.
Result<Isa> selected_isa();
std::string to_string(Isa isa);

}  // namespace nibble
