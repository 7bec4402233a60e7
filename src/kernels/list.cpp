#include "kernels/list.h"

#include "kernels/linear.h"

namespace nibble {
namespace {

constexpr IsaTable kTables[] = {
    {Isa::avx512vnni, &kAvx512Kernels},
    {Isa::avx2, &kAvx2Kernels},
    {Isa::portable, &kReferenceKernels},
};

}  // namespace

std::span<const IsaTable> all_tables() { return kTables; }

const KernelTable& best_table(Isa isa) {
  for (const IsaTable& entry : kTables)
    if (entry.isa <= isa && entry.table->quantize != nullptr) return *entry.table;
  return kReferenceKernels;
}

std::vector<const LinearRow*> linear_rows(Isa isa) {
  std::vector<const LinearRow*> rows;
  for (const IsaTable& entry : kTables) {
    if (entry.isa > isa) continue;
    for (const LinearRow* row = entry.table->linear; row->kernel != nullptr; ++row) rows.push_back(row);
  }
  return rows;
}

std::vector<const AttentionRow*> attention_rows(Isa isa) {
  std::vector<const AttentionRow*> rows;
  for (const IsaTable& entry : kTables) {
    if (entry.isa > isa) continue;
    for (const AttentionRow* row = entry.table->attention; row->kernel != nullptr; ++row) rows.push_back(row);
  }
  return rows;
}

AttentionKernel attention_kernel(CacheType type, Isa isa) {
  for (const IsaTable& entry : kTables) {
    if (entry.isa > isa) continue;
    for (const AttentionRow* row = entry.table->attention; row->kernel != nullptr; ++row)
      if (row->type == type) return row->kernel;
  }
  return nullptr;
}

QuantizeKernel quantize_kernel(Isa isa) { return best_table(isa).quantize; }

std::string quantize_name(Isa isa) { return best_table(isa).quantize_name; }

}  // namespace nibble
