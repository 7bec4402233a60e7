// What an ISA folder exports: one table, its lists ordered best first. The folder that owns a table is the only place
// that names its kernels; kernels/list.cpp joins the tables.
#pragma once

#include "kernels/abi/attention.h"
#include "kernels/abi/linear.h"

namespace nibble {

struct KernelTable {
  const char* isa;
  const LinearRow* linear;    // ends with a row whose kernel is null
  const char* quantize_name;  // null, as the next, where this level adds nothing to the one below
  QuantizeKernel quantize;
  const AttentionRow* attention;  // ends with a row whose kernel is null
};

extern const KernelTable kReferenceKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;

}  // namespace nibble
