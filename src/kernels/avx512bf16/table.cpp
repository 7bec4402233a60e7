#include "kernels/avx512bf16/rows.h"

namespace nibble {
namespace {

constexpr LinearRow kLinear[] = {
    {"linear_bf16_pairs__avx512bf16_12x32", PackedType::bf16_pairs, false, 0, 1, 1, 12, avx512bf16::linear_bf16_pairs},
    {"linear_coded_pairs__avx512bf16_12x32", PackedType::coded_pairs, false, 0, 1, 1, 12,
     avx512bf16::linear_coded_pairs},
    {},
};

constexpr AttentionRow kAttention[] = {{}};

}  // namespace

const KernelTable kAvx512Bf16Kernels = {"avx512bf16", kLinear, nullptr, kAttention, avx512bf16::kProbes,
                                        nullptr,      nullptr, nullptr, nullptr};

}  // namespace nibble
