// The kernels of this folder.
#pragma once

#include "kernels/abi/table.h"

namespace nibble::amx {

void linear_w4_a8(const LinearArgs& args);
void linear_w8_a8(const LinearArgs& args);
void linear_bf16_tiles(const LinearArgs& args);
void linear_coded_tiles(const LinearArgs& args);
void linear_coded_tile(const LinearArgs& args);  // the same, up to 32 tokens
extern const ProbeRow kProbes[];                 // ends with a row whose `run` is null

}  // namespace nibble::amx
