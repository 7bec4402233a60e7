#include "kernels/ref/rows.h"

namespace nibble {
namespace {

constexpr LinearRow kLinear[] = {
    {"linear_w4_a8__reference", PackedType::int4, 8, 1, ref::linear_integer},
    {"linear_w8_a8__reference", PackedType::int8, 8, 1, ref::linear_integer},
    {"linear_w4_f32__reference", PackedType::int4, 0, 1, ref::linear_integer_weights},
    {"linear_w8_f32__reference", PackedType::int8, 0, 1, ref::linear_integer_weights},
    {"linear_f32__reference", PackedType::f32, 0, 1, ref::linear_float},
    {"linear_f16__reference", PackedType::f16, 0, 1, ref::linear_float},
    {"linear_bf16__reference", PackedType::bf16, 0, 1, ref::linear_float},
    {"linear_bf16_pairs__reference", PackedType::bf16_pairs, 0, 1, ref::linear_bf16_pairs},
    {"linear_bf16_tiles__reference", PackedType::bf16_tiles, 0, 1, ref::linear_bf16_tiles},
    {"linear_coded__reference", PackedType::coded, 0, 1, ref::linear_coded},
    {"linear_coded_pairs__reference", PackedType::coded_pairs, 0, 1, ref::linear_coded_pairs},
    {"linear_coded_tiles__reference", PackedType::coded_tiles, 0, 1, ref::linear_coded_tiles},
    {"linear_coded_a8__reference", PackedType::coded_integers, 8, 1, ref::linear_integer},
    {"linear_b4__reference", PackedType::blocks4, 8, 1, ref::linear_blocks},
    {"linear_b5__reference", PackedType::blocks5, 8, 1, ref::linear_blocks},
    {"linear_b6__reference", PackedType::blocks6, 8, 1, ref::linear_blocks},
    {"linear_b8__reference", PackedType::blocks8, 8, 1, ref::linear_blocks},
    {},
};

constexpr AttentionRow kAttention[] = {
    {"attention_f32__reference", CacheType::f32, ref::attention, ref::store_cache},
    {"attention_f16__reference", CacheType::f16, ref::attention, ref::store_cache},
    {"attention_bf16__reference", CacheType::bf16, ref::attention, ref::store_cache},
    {"attention_mixed__reference", CacheType::mixed, ref::attention, ref::store_cache},
    {},
};

constexpr TokenKernels kToken = {"reference",   ref::norm,  ref::activate, ref::split,
                                 ref::quantize, ref::round, ref::encode,   ref::rotate};

constexpr SolveKernels kSolve = {"reference", {4, 8, ref::multiply}, {4, 8, ref::multiply},
                                 ref::widen,  ref::add_scaled,       ref::cost};

}  // namespace

const KernelTable kReferenceKernels = {.isa = "portable",
                                       .linear = kLinear,
                                       .attention = kAttention,
                                       .probes = ref::kProbes,
                                       .token = &kToken,
                                       .solve = &kSolve,
                                       .open_codes = ref::open_codes,
                                       .sparse = ref::sparse,
                                       .open_levels = ref::open_levels};

}  // namespace nibble
