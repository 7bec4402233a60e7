#include "kernels/amx/rows.h"

namespace nibble {
namespace {

constexpr LinearRow kLinear[] = {
    {"linear_w4_a8__amx_32x32", PackedType::int4, 8, 32, amx::linear_w4_a8, {.min_m = 16, .step_multiple = 16}},
    {"linear_w8_a8__amx_32x32", PackedType::int8, 8, 32, amx::linear_w8_a8, {.min_m = 16, .step_multiple = 16}},
    {"linear_coded_a8__amx_32x32",
     PackedType::coded_integers,
     8,
     32,
     amx::linear_w8_a8,
     {.min_m = 16, .step_multiple = 16, .opened = true}},
    {"linear_bf16_tiles__amx_32x32", PackedType::bf16_tiles, 0, 32, amx::linear_bf16_tiles, {.block_k = 512}},
    {"linear_coded_tiles__amx_32x32", PackedType::coded_tiles, 0, 32, amx::linear_coded_tiles, {.block_k = 512}},
    {},
};

constexpr AttentionRow kAttention[] = {{}};

}  // namespace

const KernelTable kAmxKernels = {.isa = "amx", .linear = kLinear, .attention = kAttention, .probes = amx::kProbes};

}  // namespace nibble
