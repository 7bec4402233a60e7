#include "kernels/packed_shape.h"

#include <algorithm>

#include "core/checked.h"
#include "core/hadamard.h"
#include "format/integer_levels.h"
#include "kernels/layout.h"

namespace nibble {
namespace {

// No layer is larger, so that no product of its sizes overflows.
constexpr int64_t kMaxExtent = int64_t{1} << 27;

// Whether both are integers in the same blocks, so that a block's sum of products is one: exact, and scaled once.
bool in_integer_blocks(const NumberFormat& weights, const NumberFormat& input) {
  return weights.group == input.group && weights.group % kChunkInputs == 0 && weights.group <= kLongestBlock &&
         integer_levels(weights) && integer_levels(input);
}

// Of the widest codes, where the format leaves bits open.
int widest_code(const PackedShape& shape) {
  const auto widest = std::max_element(shape.widths.begin(), shape.widths.end());
  return widest == shape.widths.end() ? shape.weights.bits : *widest;
}

}  // namespace

bool has_integer_levels(const NumberFormat& weights, const NumberFormat& input) {
  return weights.is_learned() && input.is_integer();
}

PackedType packed_type(const PackedShape& shape, Isa isa) {
  const NumberFormat &format = shape.weights, &input = shape.activations;
  if (in_integer_blocks(format, input)) return blocks_of(format.bits);
  if (has_integer_levels(format, input)) return PackedType::int8;
  if (format.is_block() || format.is_learned())
    return input.levels == Levels::f32 ? PackedType::bf16 : packed_halves(isa);
  switch (format.levels) {
    case Levels::integer: return widest_code(shape) <= 4 ? PackedType::int4 : PackedType::int8;
    case Levels::f32: return PackedType::f32;
    case Levels::f16: return PackedType::f16;
    case Levels::magnitude:
    case Levels::minifloat:
    case Levels::power:
    case Levels::table: break;
    case Levels::bf16: return input.levels == Levels::bf16 ? packed_halves(isa) : PackedType::bf16;
  }
  return PackedType::f32;
}

std::string describe(const PackedShape& shape) {
  return fmt::format("a linear layer of {} x {} in {} with input in {}", shape.rows, shape.columns,
                     to_string(shape.weights), to_string(shape.activations));
}

PackedShape shape_of(const LinearWeight& weight) {
  return {weight.rows,
          weight.columns,
          weight.format,
          weight.activations,
          weight.kept_columns,
          !weight.bias.empty(),
          weight.kept_levels,
          weight.rotation,
          static_cast<int64_t>(weight.sparse.values.size()),
          weight.widths,
          has_integer_levels(weight.format, weight.activations) && weight.format.sharing == Sharing::column
              ? weight.exponents
              : std::vector<int8_t>()};
}

Status check_input(const PackedShape& shape, int64_t group_size) {
  const NumberFormat& input = shape.activations;
  const bool exact = shape.weights.is_block() || shape.weights.is_learned();
  if (input.is_block() && exact && serves_activations(input)) return {};
  if (input.is_block())
    return fail(ErrorCode::unsupported, "{}: input in a block format needs weights in one", describe(shape));
  const bool halves = input.levels == Levels::bf16 && shape.weights.is_exact_in_bf16();
  if (input.levels == Levels::f32 || halves) return {};
  if (!input.is_integer())
    return fail(ErrorCode::unsupported, "{}: input is f32, quantized, or bf16 where the weights are bf16 numbers",
                describe(shape));
  if (!shape.weights.is_integer() && !shape.weights.is_learned())
    return fail(ErrorCode::unsupported, "{}: quantized input needs integer weights or learned levels", describe(shape));
  if (input.sharing != Sharing::token && input.sharing != Sharing::row)
    return fail(ErrorCode::unsupported, "{}: quantized input must have one scale per token", describe(shape));
  if (group_size > most_summed_inputs(shape.weights, widest_code(shape), input))
    return fail(ErrorCode::unsupported, "{}: sums over {} inputs may exceed 32 bits; use groups", describe(shape),
                group_size);
  return {};
}

Status check_shape(const PackedShape& shape) {
  for (int64_t extent : {shape.rows, shape.columns})
    if (extent < 0 || extent > kMaxExtent)
      return fail(ErrorCode::corrupt, "{} x {} is no shape of a layer", shape.rows, shape.columns);
  int32_t previous = -1;
  for (int32_t column : shape.kept_columns) {
    if (column <= previous || column >= shape.columns)
      return fail(ErrorCode::corrupt, "kept column {} is out of order or not below {}", column, shape.columns);
    previous = column;
  }
  const int64_t dense = shape.columns - static_cast<int64_t>(shape.kept_columns.size());
  const int64_t widths = shape.weights.bits == 0 ? dense : 0;
  const bool known = std::all_of(shape.widths.begin(), shape.widths.end(), [](int w) { return w >= 1 && w <= 8; });
  if (static_cast<int64_t>(shape.widths.size()) != widths || !known)
    return fail(ErrorCode::corrupt, "{}: bits of {} columns, expected {} numbers from 1 to 8", describe(shape),
                shape.widths.size(), widths);
  for (size_t k = 1; shape.weights.is_integer() && k < shape.widths.size(); ++k)
    if (shape.widths[k] != shape.widths[k - 1] && static_cast<int64_t>(k) % shape.weights.group_size(dense) != 0)
      return fail(ErrorCode::corrupt, "{}: columns {} and {} of a group have {} and {} bits", describe(shape), k - 1, k,
                  shape.widths[k - 1], shape.widths[k]);
  const bool multiplied =
      has_integer_levels(shape.weights, shape.activations) && shape.weights.sharing == Sharing::column;
  const auto in_range = [](int e) { return e >= kLeastExponent && e <= kMostExponent; };
  if (static_cast<int64_t>(shape.exponents.size()) != (multiplied ? dense : 0) ||
      !std::all_of(shape.exponents.begin(), shape.exponents.end(), in_range))
    return fail(ErrorCode::corrupt, "{}: exponents of {} columns, expected {} from {} to {}", describe(shape),
                shape.exponents.size(), multiplied ? dense : 0, kLeastExponent, kMostExponent);
  if (shape.sparse > 0 && !shape.weights.is_learned())
    return fail(ErrorCode::corrupt, "a sparse part beside {}; expected learned levels", to_string(shape.weights));
  if (!is_rotation(shape.rotation) || shape.rotation > shape.columns)
    return fail(ErrorCode::corrupt, "blocks of {} are no rotation of {} columns", shape.rotation, shape.columns);
  return {};
}

int64_t padded_group(int64_t group_size, int64_t groups) {
  const bool one_long = groups == 1 && group_size > kCompactGroup;
  return round_up(group_size, (one_long ? 16 : 2) * kStepInputs);
}

InputPlan make_plan(const PackedShape& shape) {
  InputPlan plan;
  plan.activations = shape.activations;
  plan.columns = shape.columns;
  plan.kept_columns = shape.kept_columns;
  plan.kept_halves = !shape.kept_columns.empty() && shape.kept_levels == Levels::bf16;
  plan.rotation = shape.rotation;
  plan.sparse = shape.sparse > 0;
  if (in_integer_blocks(shape.weights, shape.activations)) {
    plan.group_size = shape.weights.group;
    plan.groups = shape.weights.groups(plan.dense_count());
    plan.group_stride = plan.group_size + static_cast<int64_t>(sizeof(BlockTail));
  } else if (has_integer_levels(shape.weights, shape.activations) && shape.weights.sharing == Sharing::column) {
    plan.group_size = plan.dense_count();
    plan.exponents = shape.exponents;
  } else if (shape.activations.is_integer()) {
    const int64_t dense = plan.dense_count();
    plan.group_size = std::min(shape.weights.group_size(dense), dense);
    plan.groups = shape.weights.groups(dense);
    plan.group_stride = padded_group(plan.group_size, plan.groups);
  }
  return plan;
}

// In the 4-bit layout sixteen times the sum of code * level must fit, which is how a kernel finds it; learned levels
// are integers of 8 bits, whatever their codes. Where every column is kept there are no bits.
int64_t most_summed_inputs(const NumberFormat& weights, int bits, const NumberFormat& activations) {
  const int64_t code = activations.levels_count() - 1;
  bits = std::max(1, bits);
  int64_t level = weights.offset ? most_offset(bits) : half_range(bits);
  if (bits <= 4) level = 16 * half_range(4);
  if (weights.is_learned()) level = half_range(8);
  return INT32_MAX / (code * level);
}

}  // namespace nibble
