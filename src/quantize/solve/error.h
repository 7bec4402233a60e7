// How far a quantized layer is from the original one.
#pragma once

#include "quantize/observe/statistics.h"
#include "quantize/solve/layer.h"

namespace nibble {

// |W - W'|^2 / |W|^2 over all weights; 0 for a layer of zeros.
double weight_error(const FloatLayer& layer, const LinearWeight& solved, ThreadPool& pool);

// Rows that output errors are measured on: all, or this many at equal distances when there are more.
inline constexpr int64_t kErrorRows = 512;

// tr(V G V') over the measured rows, with V = W - W', or V = W when `solved` is null: the energy of the output's error,
// or of the output, over the tokens of G.
double output_energy(const FloatLayer& layer, const LinearWeight* solved, const Gram& gram, ThreadPool& pool);
int64_t energy_scratch_bytes(int64_t columns, int threads);  // that it needs

// output_energy(layer, &solved) / whole, with whole = output_energy(layer, nullptr); 0 when the output is always zero.
double output_error(const FloatLayer& layer, const LinearWeight& solved, double whole, const Gram& gram,
                    ThreadPool& pool);

}  // namespace nibble
