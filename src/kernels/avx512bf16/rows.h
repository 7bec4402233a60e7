// The kernels of this folder (AVX-512 with BF16): what the level adds to the AVX-512 one.
#pragma once

#include "kernels/abi/table.h"

namespace nibble::avx512bf16 {

void linear_bf16_pairs(const LinearArgs& args);
void linear_coded_pairs(const LinearArgs& args);
extern const ProbeRow kProbes[];  // ends with a row whose `run` is null

}  // namespace nibble::avx512bf16
