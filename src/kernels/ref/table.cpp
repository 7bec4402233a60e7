#include "kernels/ref/rows.h"

namespace nibble {
namespace {

constexpr LinearRow kLinear[] = {
    {"linear_w4_a8__reference", PackedType::int4, true, 8, 1, 1, 1, ref::linear_integer},
    {"linear_w8_a8__reference", PackedType::int8, true, 8, 1, 1, 1, ref::linear_integer},
    {"linear_w4_f32__reference", PackedType::int4, false, 0, 1, 1, 1, ref::linear_integer_weights},
    {"linear_w8_f32__reference", PackedType::int8, false, 0, 1, 1, 1, ref::linear_integer_weights},
    {"linear_f32__reference", PackedType::f32, false, 0, 1, 1, 1, ref::linear_float},
    {"linear_f16__reference", PackedType::f16, false, 0, 1, 1, 1, ref::linear_float},
    {"linear_bf16__reference", PackedType::bf16, false, 0, 1, 1, 1, ref::linear_float},
    {"linear_bf16_pairs__reference", PackedType::bf16_pairs, false, 0, 1, 1, 1, ref::linear_bf16_pairs},
    {"linear_bf16_tiles__reference", PackedType::bf16_tiles, false, 0, 1, 1, 1, ref::linear_bf16_tiles},
    {"linear_coded__reference", PackedType::coded, false, 0, 1, 1, 1, ref::linear_coded},
    {"linear_coded_pairs__reference", PackedType::coded_pairs, false, 0, 1, 1, 1, ref::linear_coded_pairs},
    {"linear_coded_tiles__reference", PackedType::coded_tiles, false, 0, 1, 1, 1, ref::linear_coded_tiles},
    {"linear_coded_a8__reference", PackedType::coded_integers, true, 8, 1, 1, 1, ref::linear_integer},
    {"linear_b4__reference", PackedType::blocks4, true, 8, 1, 1, 1, ref::linear_blocks},
    {"linear_b5__reference", PackedType::blocks5, true, 8, 1, 1, 1, ref::linear_blocks},
    {"linear_b6__reference", PackedType::blocks6, true, 8, 1, 1, 1, ref::linear_blocks},
    {"linear_b8__reference", PackedType::blocks8, true, 8, 1, 1, 1, ref::linear_blocks},
    {},
};

constexpr AttentionRow kAttention[] = {
    {"attention_f32__reference", CacheType::f32, 0, ref::attention, ref::store_cache},
    {"attention_f16__reference", CacheType::f16, 0, ref::attention, ref::store_cache},
    {"attention_bf16__reference", CacheType::bf16, 0, ref::attention, ref::store_cache},
    {"attention_mixed__reference", CacheType::mixed, 0, ref::attention, ref::store_cache},
    {},
};

constexpr TokenKernels kToken = {"reference",   ref::norm,  ref::activate, ref::split,
                                 ref::quantize, ref::round, ref::encode,   ref::rotate};

constexpr SolveKernels kSolve = {"reference", {4, 8, ref::multiply}, {4, 8, ref::multiply},
                                 ref::widen,  ref::add_scaled,       ref::cost};

}  // namespace

const KernelTable kReferenceKernels = {"portable", kLinear,         &kToken,     kAttention,      ref::kProbes,
                                       &kSolve,    ref::open_codes, ref::sparse, ref::open_levels};

}  // namespace nibble
