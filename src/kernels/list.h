// The tables of all instruction sets, best first. Internal to this folder and its tests.
#pragma once

#include <span>

#include "core/cpu.h"
#include "kernels/abi/table.h"

namespace nibble {

struct IsaTable {
  Isa isa;  // what the processor must have
  const KernelTable* table;
};

std::span<const IsaTable> all_tables();
OpenCodes open_codes(Isa isa);
OpenLevels open_levels(Isa isa);
SparseKernel sparse_kernel(Isa isa);

}  // namespace nibble
