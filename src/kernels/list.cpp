#include "kernels/list.h"

#include "kernels/linear.h"

namespace nibble {
namespace {

constexpr IsaTable kTables[] = {
    {Isa::amx, &kAmxKernels},   {Isa::avx512bf16, &kAvx512Bf16Kernels}, {Isa::avx512vnni, &kAvx512Kernels},
    {Isa::avx2, &kAvx2Kernels}, {Isa::portable, &kReferenceKernels},
};

}  // namespace

std::span<const IsaTable> all_tables() { return kTables; }

OpenCodes open_codes(Isa isa) {
  for (const IsaTable& entry : kTables)
    if (entry.isa <= isa && entry.table->open_codes != nullptr) return entry.table->open_codes;
  return kReferenceKernels.open_codes;
}

OpenLevels open_levels(Isa isa) {
  for (const IsaTable& entry : kTables)
    if (entry.isa <= isa && entry.table->open_levels != nullptr) return entry.table->open_levels;
  return kReferenceKernels.open_levels;
}

SparseKernel sparse_kernel(Isa isa) {
  for (const IsaTable& entry : kTables)
    if (entry.isa <= isa && entry.table->sparse != nullptr) return entry.table->sparse;
  return kReferenceKernels.sparse;
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

const AttentionRow& attention_row(CacheType type, Isa isa) {
  const AttentionRow* best = nullptr;
  for (const IsaTable& entry : kTables) {
    if (entry.isa > isa || best != nullptr || entry.table->attention == nullptr) continue;
    for (const AttentionRow* row = entry.table->attention; row->kernel != nullptr && best == nullptr; ++row)
      if (row->type == type) best = row;
  }
  return *best;
}

const TokenKernels& token_kernels(Isa isa) {
  for (const IsaTable& entry : kTables)
    if (entry.isa <= isa && entry.table->token != nullptr) return *entry.table->token;
  return *kReferenceKernels.token;
}

}  // namespace nibble
