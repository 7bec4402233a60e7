// What a layer's shape decides before any weight is read: whether it can be packed, into which layout, and what becomes
// of its input. Internal to packing.
#pragma once

#include <string>

#include "format/linear_weight.h"
#include "kernels/linear.h"

namespace nibble {

// "a linear layer of 4096 x 4096 in int4:g128 with input in f32"
std::string describe(const PackedShape& shape);
PackedShape shape_of(const LinearWeight& weight);
// `corrupt` when the shape contradicts itself.
Status check_shape(const PackedShape& shape);
// `unsupported` when the layer's input does not go with its weights, or sums over a group could exceed 32 bits.
Status check_input(const PackedShape& shape, int64_t group_size);

// The layout on a processor with this instruction set; coded layouts are decided on afterwards (pack_coded.h).
PackedType packed_type(const PackedShape& shape, Isa isa);
// Learned levels that are multiplied as integers.
bool has_integer_levels(const NumberFormat& weights, const NumberFormat& input);
// Inputs of a group with its padding: an even number of steps, or whole tiles (sixteen steps) where that costs little.
int64_t padded_group(int64_t group_size, int64_t groups);
InputPlan make_plan(const PackedShape& shape);

}  // namespace nibble
