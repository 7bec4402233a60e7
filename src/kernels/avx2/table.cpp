#include "kernels/avx2/rows.h"

namespace nibble {
namespace {

constexpr LinearRow kLinear[] = {
    {"linear_w4_a8__avx2_6x16", PackedType::int4, 8, 6, avx2::linear_w4_a8},
    {"linear_w8_a4__avx2_6x16", PackedType::int8, 4, 6, avx2::linear_w8_a4},
    {"linear_w8_a8__avx2_6x16", PackedType::int8, 8, 6, avx2::linear_w8_a8},
    {"linear_w4_f32__avx2_4x16", PackedType::int4, 0, 4, avx2::linear_w4_f32},
    {"linear_w8_f32__avx2_4x16", PackedType::int8, 0, 4, avx2::linear_w8_f32},
    {"linear_f32__avx2_6x16", PackedType::f32, 0, 6, avx2::linear_f32},
    {"linear_f16__avx2_6x16", PackedType::f16, 0, 6, avx2::linear_f16},
    {"linear_bf16__avx2_6x16", PackedType::bf16, 0, 6, avx2::linear_bf16},
    {"linear_bf16_pairs__avx2_4x16", PackedType::bf16_pairs, 0, 4, avx2::linear_bf16_pairs},
    {"linear_coded__avx2_6x16", PackedType::coded, 0, 6, avx2::linear_coded},
    {"linear_coded_pairs__avx2_4x16", PackedType::coded_pairs, 0, 4, avx2::linear_coded_pairs},
    {"linear_coded_a4__avx2_6x16", PackedType::coded_integers, 4, 6, avx2::linear_w8_a4, {.opened = true}},
    {"linear_coded_a8__avx2_6x16", PackedType::coded_integers, 8, 6, avx2::linear_w8_a8, {.opened = true}},
    {"linear_b4__avx2_4x16", PackedType::blocks4, 8, 4, avx2::linear_b4},
    {"linear_b5__avx2_4x16", PackedType::blocks5, 8, 4, avx2::linear_b5},
    {"linear_b6__avx2_4x16", PackedType::blocks6, 8, 4, avx2::linear_b6},
    {"linear_b8__avx2_4x16", PackedType::blocks8, 8, 4, avx2::linear_b8},
    {},
};

constexpr AttentionRow kAttention[] = {
    {"attention_f32__avx2_6x16", CacheType::f32, avx2::attention_f32, avx2::store_cache_f32},
    {"attention_f16__avx2_6x16", CacheType::f16, avx2::attention_f16, avx2::store_cache_f16},
    {"attention_bf16__avx2_6x16", CacheType::bf16, avx2::attention_bf16, avx2::store_cache_bf16},
    {"attention_mixed__avx2_6x16", CacheType::mixed, avx2::attention_mixed, avx2::store_cache_mixed},
    {},
};

constexpr TokenKernels kToken = {"avx2",         avx2::norm,  avx2::activate, avx2::split,
                                 avx2::quantize, avx2::round, avx2::encode,   avx2::rotate};

constexpr SolveKernels kSolve = {
    "avx2", {4, 24, avx2::multiply_f32}, {4, 12, avx2::multiply_f64}, avx2::widen, avx2::add_scaled, avx2::cost};

}  // namespace

const KernelTable kAvx2Kernels = {.isa = "avx2",
                                  .linear = kLinear,
                                  .attention = kAttention,
                                  .probes = avx2::kProbes,
                                  .token = &kToken,
                                  .solve = &kSolve,
                                  .open_codes = avx2::open_codes,
                                  .sparse = avx2::sparse,
                                  .open_levels = avx2::open_levels};

}  // namespace nibble
