#include "kernels/avx512/rows.h"

namespace nibble {
namespace {

constexpr LinearRow kLinear[] = {
    {"linear_w4_a8__avx512vnni_12x32", PackedType::int4, 8, 12, avx512::linear_w4_a8},
    {"linear_w8_a8__avx512vnni_12x32", PackedType::int8, 8, 12, avx512::linear_w8_a8},
    {"linear_w4_f32__avx512_6x64", PackedType::int4, 0, 6, avx512::linear_w4_f32},
    {"linear_w8_f32__avx512_6x64", PackedType::int8, 0, 6, avx512::linear_w8_f32},
    {"linear_f32__avx512_12x32", PackedType::f32, 0, 12, avx512::linear_f32, {.block_k = 192}},
    {"linear_f16__avx512_12x32", PackedType::f16, 0, 12, avx512::linear_f16, {.block_k = 192}},
    {"linear_bf16__avx512_12x32", PackedType::bf16, 0, 12, avx512::linear_bf16, {.block_k = 192}},
    {"linear_bf16_pairs__avx512_12x32", PackedType::bf16_pairs, 0, 12, avx512::linear_bf16_pairs, {.block_k = 192}},
    {"linear_coded__avx512_12x32", PackedType::coded, 0, 12, avx512::linear_coded, {.block_k = 192}},
    {"linear_coded_pairs__avx512_12x32", PackedType::coded_pairs, 0, 12, avx512::linear_coded_pairs, {.block_k = 192}},
    {"linear_coded_a8__avx512vnni_12x32",
     PackedType::coded_integers,
     8,
     12,
     avx512::linear_w8_a8,
     {.min_m = 13, .opened = true}},
    {"linear_coded_a8__avx512vnni_8x32", PackedType::coded_integers, 8, 8, avx512::linear_coded_a8},
    {"linear_b4__avx512vnni_6x32", PackedType::blocks4, 8, 6, avx512::linear_b4},
    {"linear_b5__avx512vnni_6x32", PackedType::blocks5, 8, 6, avx512::linear_b5},
    {"linear_b6__avx512vnni_6x32", PackedType::blocks6, 8, 6, avx512::linear_b6},
    {"linear_b8__avx512vnni_6x32", PackedType::blocks8, 8, 6, avx512::linear_b8},
    {},
};

constexpr AttentionRow kAttention[] = {
    {"attention_f32__avx512_12x32", CacheType::f32, avx512::attention_f32, avx512::store_cache_f32},
    {"attention_f16__avx512_12x32", CacheType::f16, avx512::attention_f16, avx512::store_cache_f16},
    {"attention_bf16__avx512_12x32", CacheType::bf16, avx512::attention_bf16, avx512::store_cache_bf16},
    {"attention_mixed__avx512_12x32", CacheType::mixed, avx512::attention_mixed, avx512::store_cache_mixed},
    {},
};

constexpr TokenKernels kToken = {"avx512",         avx512::norm,  avx512::activate, avx512::split,
                                 avx512::quantize, avx512::round, avx512::encode,   avx512::rotate};

constexpr SolveKernels kSolve = {
    "avx512",    {8, 48, avx512::multiply_f32}, {8, 24, avx512::multiply_f64}, avx512::widen, avx512::add_scaled,
    avx512::cost};

}  // namespace

const KernelTable kAvx512Kernels = {.isa = "avx512vnni",
                                    .linear = kLinear,
                                    .attention = kAttention,
                                    .probes = avx512::kProbes,
                                    .token = &kToken,
                                    .solve = &kSolve,
                                    .open_codes = avx512::open_codes,
                                    .sparse = avx512::sparse,
                                    .open_levels = avx512::open_levels};

}  // namespace nibble
