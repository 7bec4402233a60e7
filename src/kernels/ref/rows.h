// The reference kernels: the definitions of kernels/abi written out, one value at a time. They are the specification,
// the oracle of every fast kernel, and what a machine without AVX2 runs.
#pragma once

#include "kernels/abi/table.h"

namespace nibble::ref {

void linear_integer(const LinearArgs& args);          // int4 and int8 weights, quantized input
void linear_integer_weights(const LinearArgs& args);  // int4 and int8 weights, float input
void linear_float(const LinearArgs& args);            // f32, f16 and bf16 weights, float input
void linear_bf16_pairs(const LinearArgs& args);       // bf16 weights, bf16 input
void linear_bf16_tiles(const LinearArgs& args);
void linear_blocks(const LinearArgs& args);  // block layouts, records
void linear_coded(const LinearArgs& args);   // codes of bf16 weights, float input
void linear_coded_pairs(const LinearArgs& args);
void linear_coded_tiles(const LinearArgs& args);
void open_codes(const PackedDense& dense, int64_t panel, int64_t begin, int64_t end, uint16_t* to);
void open_levels(const PackedDense& dense, int64_t panel, int8_t* to);
void sparse(const SparseArgs& args);
void norm(const NormArgs& args);
void activate(const ActivateArgs& args);
void split(const SplitArgs& args);
void quantize(const QuantizeArgs& args);
void round(const RoundArgs& args);
void encode(const EncodeArgs& args);
void rotate(const RotateArgs& args);
void attention(const AttentionArgs& args);
void store_cache(const CacheStoreArgs& args);
void multiply(const ProductArgs<float>& args);
void multiply(const ProductArgs<double>& args);
void widen(const WidenArgs& args);
void add_scaled(const AddScaledArgs& args);
float cost(const CostArgs& args);
extern const ProbeRow kProbes[];  // ends with a row whose `run` is null

}  // namespace nibble::ref
