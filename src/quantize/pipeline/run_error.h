// What quantization does to the output of a linear when it is run: the packed layers themselves, on rows of
// calibration text, with the input quantized and split as in the finished model.
#pragma once

#include <optional>
#include <span>

#include "kernels/linear.h"
#include "quantize/observe/row_sample.h"

namespace nibble {

// With y of the original layer and y' of the quantized one, both without the bias, over all outputs and rows:
// |y - y'|^2 / |y|^2 and y . y' / (|y| |y'|). nullopt where a denominator is zero or a value is not finite.
struct RunError {
  std::optional<double> error, cosine;
};

// `bias`: what both layers add to their output; empty for none.
RunError run_error(const PackedLinear& original, const PackedLinear& quantized, std::span<const float> bias,
                   const RowSample& rows, Isa isa, ThreadPool& pool);

}  // namespace nibble
