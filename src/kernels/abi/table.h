// What an ISA folder exports: one table, its lists ordered best first. The folder that owns a table is the only place
// that names its kernels; kernels/list.cpp joins the tables.
#pragma once

#include "kernels/abi/attention.h"
#include "kernels/abi/linear.h"
#include "kernels/abi/probe.h"
#include "kernels/abi/solve.h"
#include "kernels/abi/token.h"

namespace nibble {

struct KernelTable {
  const char* isa;
  const LinearRow* linear;        // ends with a row whose kernel is null
  const AttentionRow* attention;  // the same
  const ProbeRow* probes;         // of the multipliers this level adds; ends with a row whose `run` is null
  // Null where this level adds nothing to the one below.
  const TokenKernels* token = nullptr;
  const SolveKernels* solve = nullptr;
  OpenCodes open_codes = nullptr;
  SparseKernel sparse = nullptr;
  OpenLevels open_levels = nullptr;
};

extern const KernelTable kReferenceKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512Bf16Kernels;
extern const KernelTable kAmxKernels;

}  // namespace nibble
