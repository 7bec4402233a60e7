// The AVX-512 kernels (F, BW, VL, DQ, VNNI). Each computes what kernels/abi defines; comments say how.
#pragma once

#include "kernels/abi/table.h"

namespace nibble::avx512 {

void linear_w4_a8(const LinearArgs& args);
void linear_w8_a8(const LinearArgs& args);
void linear_w4_a8_many(const LinearArgs& args);  // the same, for many tokens
void linear_w8_a8_many(const LinearArgs& args);
void linear_w4_f32(const LinearArgs& args);
void linear_w8_f32(const LinearArgs& args);
void linear_f32(const LinearArgs& args);
void linear_f16(const LinearArgs& args);
void linear_bf16(const LinearArgs& args);
void linear_bf16_pairs(const LinearArgs& args);
void linear_coded(const LinearArgs& args);
void linear_coded_blocks(const LinearArgs& args);  // the same, for many tokens
void linear_coded_pairs(const LinearArgs& args);
void open_codes(const PackedDense& dense, int64_t panel, int64_t begin, int64_t end, uint16_t* to);
void linear_coded_a8(const LinearArgs& args);  // few tokens
void open_levels(const PackedDense& dense, int64_t panel, int8_t* to);
void linear_b4(const LinearArgs& args);
void linear_b5(const LinearArgs& args);
void linear_b6(const LinearArgs& args);
void linear_b8(const LinearArgs& args);
void sparse(const SparseArgs& args);
void norm(const NormArgs& args);
void activate(const ActivateArgs& args);
void split(const SplitArgs& args);
void quantize(const QuantizeArgs& args);
void round(const RoundArgs& args);
void encode(const EncodeArgs& args);
void rotate(const RotateArgs& args);
void attention_f32(const AttentionArgs& args);
void attention_f16(const AttentionArgs& args);
void attention_bf16(const AttentionArgs& args);
void attention_mixed(const AttentionArgs& args);
void store_cache_f32(const CacheStoreArgs& args);
void store_cache_f16(const CacheStoreArgs& args);
void store_cache_bf16(const CacheStoreArgs& args);
void store_cache_mixed(const CacheStoreArgs& args);
void multiply_f32(const ProductArgs<float>& args);
void multiply_f64(const ProductArgs<double>& args);
void widen(const WidenArgs& args);
void add_scaled(const AddScaledArgs& args);
float cost(const CostArgs& args);
extern const ProbeRow kProbes[];  // ends with a row whose `run` is null

}  // namespace nibble::avx512
