#include "kernels/amx/rows.h"

namespace nibble {
namespace {

constexpr LinearRow kLinear[] = {
    {"linear_w4_a8__amx_32x32", PackedType::int4, true, 8, 16, 16, 32, amx::linear_w4_a8},
    {"linear_w8_a8__amx_32x32", PackedType::int8, true, 8, 16, 16, 32, amx::linear_w8_a8},
    {"linear_coded_a8__amx_32x32", PackedType::coded_integers, true, 8, 16, 16, 32, amx::linear_w8_a8, 0, true},
    {"linear_bf16_tiles__amx_32x32", PackedType::bf16_tiles, false, 0, 1, 1, 32, amx::linear_bf16_tiles, 512},
    {"linear_coded_tiles__amx_32x32", PackedType::coded_tiles, false, 0, 1, 1, 32, amx::linear_coded_tiles, 512},
    {},
};

constexpr AttentionRow kAttention[] = {{}};

}  // namespace

const KernelTable kAmxKernels = {"amx", kLinear, nullptr, kAttention, amx::kProbes, nullptr, nullptr, nullptr, nullptr};

}  // namespace nibble
