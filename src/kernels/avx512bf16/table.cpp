#include "kernels/avx512bf16/rows.h"

namespace nibble {
namespace {

constexpr LinearRow kLinear[] = {
    {"linear_bf16_pairs__avx512bf16_12x32", PackedType::bf16_pairs, 0, 12, avx512bf16::linear_bf16_pairs},
    {"linear_coded_pairs__avx512bf16_12x32", PackedType::coded_pairs, 0, 12, avx512bf16::linear_coded_pairs},
    {},
};

constexpr AttentionRow kAttention[] = {{}};

}  // namespace

const KernelTable kAvx512Bf16Kernels = {
    .isa = "avx512bf16", .linear = kLinear, .attention = kAttention, .probes = avx512bf16::kProbes};

}  // namespace nibble
