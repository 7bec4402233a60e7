// Canonical weights to kernel layout and back. A pair of panels of 16 outputs is packed by one task; pairs do not
// depend on each other.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

#include "core/checked.h"
#include "core/file.h"
#include "core/hadamard.h"
#include "core/half.h"
#include "format/integer_levels.h"
#include "kernels/linear.h"
#include "kernels/list.h"
#include "kernels/pack_coded.h"
#include "kernels/pack_levels.h"
#include "kernels/ref/coded.h"
#include "kernels/transpose.h"

namespace nibble {
namespace {

// bf16 weights with bf16 input: which of the two layouts, and with it which order of additions, this level multiplies
// fastest.
PackedType packed_halves(Isa isa) { return isa >= Isa::amx ? PackedType::bf16_tiles : PackedType::bf16_pairs; }

// Whether both are integers in the same blocks, so that a block's sum of products is one: exact, and scaled once.
bool in_integer_blocks(const NumberFormat& weights, const NumberFormat& input) {
  return weights.group == input.group && weights.group % kChunkInputs == 0 && weights.group <= kLongestBlock &&
         integer_levels(weights) && integer_levels(input);
}

// Learned levels that are multiplied as integers.
bool has_integer_levels(const NumberFormat& weights, const NumberFormat& input) {
  return weights.is_learned() && input.is_integer();
}

PackedType blocks_of(int bits) {
  return bits <= 4   ? PackedType::blocks4
         : bits == 5 ? PackedType::blocks5
         : bits == 6 ? PackedType::blocks6
                     : PackedType::blocks8;
}

// Bits that a block layout spends on a code; 0 for other layouts.
int block_bits(PackedType type) {
  switch (type) {
    case PackedType::blocks4: return 4;
    case PackedType::blocks5: return 5;
    case PackedType::blocks6: return 6;
    case PackedType::blocks8: return 8;
    default: return 0;
  }
}

// Of the widest codes, where the format leaves bits open.
int widest_code(const PackedShape& shape) {
  const auto widest = std::max_element(shape.widths.begin(), shape.widths.end());
  return widest == shape.widths.end() ? shape.weights.bits : *widest;
}

// `bits`: of the widest codes.
PackedType packed_type(const NumberFormat& format, int bits, const NumberFormat& input, Isa isa) {
  if (in_integer_blocks(format, input)) return blocks_of(format.bits);
  if (has_integer_levels(format, input)) return PackedType::int8;
  if (format.is_block() || format.is_learned())
    return input.levels == Levels::f32 ? PackedType::bf16 : packed_halves(isa);
  switch (format.levels) {
    case Levels::integer: return bits <= 4 ? PackedType::int4 : PackedType::int8;
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

// The layout of codes that stands for one of values; the same where there is none.
PackedType coded_type(PackedType values) {
  switch (values) {
    case PackedType::bf16: return PackedType::coded;
    case PackedType::bf16_pairs: return PackedType::coded_pairs;
    case PackedType::bf16_tiles: return PackedType::coded_tiles;
    default: return values;
  }
}

bool is_coded(PackedType type) {
  return type == PackedType::coded || type == PackedType::coded_pairs || type == PackedType::coded_tiles;
}

bool in_pairs(PackedType type) { return type == PackedType::bf16_pairs || type == PackedType::bf16_tiles; }

// Inputs of a float layout, padding included.
int64_t padded_inputs(PackedType type, int64_t k) {
  return type == PackedType::bf16_tiles ? round_up(k, 32) : type == PackedType::bf16_pairs ? round_up(k, 2) : k;
}

// Where a float layout has input k of a panel's lane, counted in values.
int64_t value_at(PackedType type, int64_t k_end, int64_t panel, int64_t lane, int64_t k) {
  const int64_t begin = panel * padded_inputs(type, k_end) * kLanes;
  return begin + (in_pairs(type) ? (k / 2 * kLanes + lane) * 2 + k % 2 : k * kLanes + lane);
}

bool is_integer(PackedType type) {
  return type == PackedType::int4 || type == PackedType::int8 || type == PackedType::coded_integers;
}

constexpr int64_t kStepInputs = 4;
constexpr int64_t kCodes = 64;          // of block layouts with a table of levels
constexpr int32_t kLevelZero = 128;     // as block layouts store it
constexpr int64_t kCompactGroup = 128;  // inputs: |level - zero| <= 255, so their sum fits 16 bits
constexpr int64_t kPair = 2;            // panels

int64_t value_bytes(PackedType type) { return type == PackedType::f32 ? 4 : 2; }

// Half of the codes' range: level = code - half, for symmetric and asymmetric grids alike.
int32_t half_range(int bits) { return int32_t{1} << (bits - 1); }

// The integer that stands for a code of so many bits, and the code that it stands for.
int32_t level_of(int32_t code, int bits) { return (bits == 1 ? kSignStep * code : code) - middle_offset(bits); }
int32_t code_of(int32_t level, int bits) { return (level + middle_offset(bits)) / (bits == 1 ? kSignStep : 1); }

std::string describe(const PackedShape& shape) {
  return fmt::format("a linear layer of {} x {} in {} with input in {}", shape.rows, shape.columns,
                     to_string(shape.weights), to_string(shape.activations));
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

// No layer is larger, so that no product of its sizes overflows.
constexpr int64_t kMaxExtent = int64_t{1} << 27;

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

// Inputs of a group with its padding: an even number of steps, or whole tiles (sixteen steps) where that costs little.
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

}  // namespace

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

// The image of a layer: these arrays one after the other, each at a multiple of 64 bytes.
struct PackedLinear::Parts {
  // Offsets in bytes.
  int64_t codes = 0, scales = 0, sums = 0, zeros = 0, levels = 0, outer = 0, kept = 0, bias = 0;
  int64_t sparse_rows = 0, sparse_columns = 0, sparse = 0, end = 0;
};

int64_t PackedLinear::panels() const { return round_up(ceil_div(n_, kLanes), kPair); }

PackedLinear::Parts PackedLinear::parts() const {
  const PackedDense& d = dense_;
  const bool integer = is_integer(d.type);
  const int64_t integers = d.groups * d.group_steps * 64;
  const int block_bits_each = block_bits(d.type);
  const bool coded = is_coded(d.type), scaled = coded && has_scales_;
  const int64_t of_panel = d.type == PackedType::coded_integers ? d.panel_bytes
                           : integer                            ? integers
                           : coded                              ? d.panel_bytes
                           : block_bits_each > 0                ? d.groups * d.group_steps * 8 * block_bits_each
                                                 : padded_inputs(d.type, d.k) * kLanes * value_bytes(d.type);
  const int64_t codes = d.type == PackedType::int4 ? panels() / kPair * integers : panels() * of_panel;
  const int64_t entries = integer ? panels() * d.groups * kLanes : 0;
  Parts parts;
  int64_t end = 0;
  const auto add = [&](int64_t& offset, int64_t bytes) {
    offset = end;
    end = round_up(end + bytes, 64);
  };
  add(parts.codes, std::max<int64_t>(64, codes));  // never nothing: kernels add to the address
  add(parts.scales, block_bits_each > 0 || scaled ? panels() * d.groups * kLanes : entries * (d.compact ? 2 : 4));
  add(parts.sums, entries * (d.compact ? 2 : 4));
  add(parts.zeros, format_.offset ? entries * (d.compact ? 1 : 4) : 0);
  add(parts.levels, block_bits_each > 0 ? kCodes
                    : coded             ? table_values_ * 2 + 4  // a number is read as four bytes
                                        : table_values_);
  add(parts.outer, format_.outer ? 4 : 0);
  add(parts.kept, panels() * padded_inputs(kept_.type, kept_.k) * kLanes * 2);
  add(parts.bias, has_bias_ ? panels() * kLanes * 4 : 0);
  add(parts.sparse_rows, sparse_count_ > 0 ? n_ * 4 : 0);
  add(parts.sparse_columns, sparse_count_ * 4);
  add(parts.sparse, sparse_count_ * 4);
  parts.end = end;
  return parts;
}

// Everything but the image.
Result<PackedLinear> PackedLinear::make(const PackedShape& shape, Isa isa) {
  PackedLinear out;
  out.n_ = shape.rows;
  out.isa_ = isa;
  out.format_ = shape.weights;
  out.has_bias_ = shape.bias;
  out.sparse_count_ = shape.sparse;
  out.plan_ = make_plan(shape);
  PackedDense& d = out.dense_;
  d.type = packed_type(shape.weights, widest_code(shape), shape.activations, isa);
  d.n = shape.rows;
  d.k = out.plan_.dense_count();
  const bool blocks = block_bits(d.type) > 0;
  d.group_size = blocks ? shape.weights.group : std::min(shape.weights.group_size(d.k), d.k);
  d.groups = !out.plan_.exponents.empty() ? 1 : blocks || is_integer(d.type) ? shape.weights.groups(d.k) : 1;
  d.compact = is_integer(d.type) && d.group_size <= kCompactGroup && shape.weights.scale == ScaleCodec::f16;
  d.group_steps = is_integer(d.type) ? padded_group(d.group_size, d.groups) / kStepInputs : 0;
  if (blocks) {
    d.group_steps = d.group_size / kStepInputs;
    d.ascending = shape.weights.levels == Levels::magnitude;
    d.e4m3 = shape.weights.scale == ScaleCodec::e4m3;
    // E4M3 scales are read as float16, whose exponents are greater by 8.
    d.factor = std::ldexp(1.0f, (d.e4m3 ? 8 : 0) - integer_levels(shape.weights)->shift);
  }
  out.widths_ = shape.widths;
  if (has_integer_levels(shape.weights, shape.activations)) {
    if (const auto layout = level_layout(shape.weights, shape.widths, d.k, out.panels())) out.keep_levels(*layout);
  } else if (const auto layout = coded_layout(shape.weights, shape.widths, d.k, out.panels());
             layout && coded_type(d.type) != d.type) {
    out.keep_codes(*layout);
  }
  out.kept_.type = shape.kept_levels == Levels::bf16 ? packed_halves(isa) : PackedType::f16;
  out.kept_.n = shape.rows;
  out.kept_.k = out.kept_.group_size = out.plan_.kept_count();
  out.kept_.groups = 1;
  NIBBLE_DO(check_input(shape, d.group_size));
  return out;
}

void PackedLinear::keep_layout(const CodedLayout& layout) {
  PackedDense& d = dense_;
  d.k = layout.inputs;
  d.tables_of = layout.tables_of;
  d.group_size = layout.group_size;
  d.groups = layout.groups;
  d.segment_count = static_cast<int64_t>(layout.segments.size());
  std::copy(layout.segments.begin(), layout.segments.end(), d.segments);
  d.panel_bytes = layout.panel_bytes;
  plan_.order = layout.order;
  table_values_ = layout.table_values;
}

void PackedLinear::keep_levels(const CodedLayout& layout) {
  keep_layout(layout);
  dense_.type = PackedType::coded_integers;
  plan_.group_size = layout.group_size;
  plan_.groups = layout.groups;
  plan_.group_stride = padded_level_group(layout.group_size, layout.groups);
  dense_.group_steps = plan_.group_stride / kStepInputs;
}

void PackedLinear::keep_codes(const CodedLayout& layout) {
  keep_layout(layout);
  PackedDense& d = dense_;
  d.type = coded_type(d.type);
  d.e4m3 = format_.scale == ScaleCodec::e4m3;
  d.factor = d.e4m3 ? 256 : 1;  // E4M3 scales are read as float16, whose exponents are greater by 8
  d.integer_codes = layout.integer_codes;
  has_scales_ = layout.tables_of == CodedTables::matrix && format_.scale != ScaleCodec::none;
}

void PackedLinear::place(std::span<const std::byte> image, std::shared_ptr<const void> owner) {
  const Parts at = parts();
  image_ = image;
  owner_ = std::move(owner);
  const auto floats = [&](int64_t offset) { return reinterpret_cast<const float*>(image_.data() + offset); };
  dense_.codes = image_.data() + at.codes;
  const bool blocks = block_bits(dense_.type) > 0;
  dense_.scales = blocks || has_scales_ || is_integer(dense_.type) ? image_.data() + at.scales : nullptr;
  dense_.tables = is_coded(dense_.type) ? reinterpret_cast<const uint16_t*>(image_.data() + at.levels) : nullptr;
  if (has_scales_ && !dense_.e4m3) {
    const PlainScales plain = plain_scales({dense_.tables, static_cast<size_t>(table_values_)});
    dense_.first_plain_scale = plain.first;
    dense_.last_plain_scale = plain.last;
  } else {
    dense_.first_plain_scale = 1;
  }
  dense_.level_tables = reinterpret_cast<const int8_t*>(image_.data() + at.levels);
  dense_.levels = blocks ? reinterpret_cast<const uint8_t*>(image_.data() + at.levels) : nullptr;
  dense_.sums = is_integer(dense_.type) ? image_.data() + at.sums : nullptr;
  dense_.zeros = is_integer(dense_.type) && format_.offset ? image_.data() + at.zeros : nullptr;
  kept_.codes = kept_.k > 0 ? image_.data() + at.kept : nullptr;
  bias_ = has_bias_ ? floats(at.bias) : nullptr;
  const auto integers = [&](int64_t offset) { return reinterpret_cast<const int32_t*>(image_.data() + offset); };
  if (sparse_count_ > 0) sparse_ = {integers(at.sparse_rows), integers(at.sparse_columns), floats(at.sparse)};
  outer_ = format_.outer ? *floats(at.outer) : 1;
  if (blocks) {  // part of the sums: the outputs need no scaling afterwards
    dense_.factor *= outer_;
    outer_ = 1;
  }
}

PackedShape PackedLinear::shape() const {
  return {n_,
          plan_.columns,
          format_,
          plan_.activations,
          plan_.kept_columns,
          has_bias_,
          plan_.kept_halves ? Levels::bf16 : Levels::f16,
          plan_.rotation,
          sparse_count_,
          widths_,
          plan_.exponents};
}

// Fills the image of one PackedLinear from a weight that has been validated.
struct LinearPacker {
  LinearPacker(const LinearWeight& from, const PackedLinear& to)
      : weight(from), out(to), d(to.dense_), at(to.parts()), memory(at.end) {
    std::copy(weight.bias.begin(), weight.bias.end(), array<float>(at.bias));
    if (weight.format.outer) *array<float>(at.outer) = weight.outer;
    std::copy(weight.sparse.row_ends.begin(), weight.sparse.row_ends.end(), array<int32_t>(at.sparse_rows));
    place_sparse();
    std::copy(weight.sparse.values.begin(), weight.sparse.values.end(), array<float>(at.sparse));
    if (block_bits(d.type) > 0) make_levels();
    if (has_integer_levels(weight.format, weight.activations)) {
      const LevelPacker::Arrays arrays{codes(), array<int8_t>(at.levels), array<float>(at.scales),
                                       array<int32_t>(at.sums)};
      level_packer_.emplace(weight, d, std::span(out.plan_.order), arrays);
      level_packer_->pack_tables();
    }
    if (is_coded(d.type)) {
      code_packer_.emplace(weight, d, std::span(out.plan_.order), array<uint16_t>(at.levels),
                           array<uint8_t>(at.scales));
      code_packer_->pack_tables();
    }
  }

  int64_t pairs() const { return out.panels() / kPair; }
  // The codes that a pair of panels is packed from.
  std::span<const std::byte> source(int64_t begin_pair, int64_t end_pair) const {
    const int64_t first = std::min(begin_pair * kPair * kLanes, weight.rows);
    const int64_t last = std::min(end_pair * kPair * kLanes, weight.rows), bytes = row_bytes();
    return {weight.codes.data() + first * bytes, static_cast<size_t>((last - first) * bytes)};
  }

  void pack_pair(int64_t pair) {
    const int64_t panel = pair * kPair;
    if (level_packer_) {
      for (int64_t p = panel; p < panel + kPair; ++p)
        for (int64_t lane = 0; lane < lanes_of(p); ++lane) level_packer_->pack_lane(p, lane);
    } else if (is_integer(d.type)) {
      pack_integers(pair);
    } else if (block_bits(d.type) > 0) {
      for (int64_t p = panel; p < panel + kPair; ++p) pack_blocks(p);
    } else if (is_coded(d.type)) {
      for (int64_t p = panel; p < panel + kPair; ++p)
        for (int64_t lane = 0; lane < lanes_of(p); ++lane)
          code_packer_->pack_lane(p, lane, codes() + p * d.panel_bytes);
    } else {
      pack_values(panel);
      pack_values(panel + 1);
    }
    for (int64_t p = panel; p < panel + kPair; ++p)
      for (int64_t lane = 0; lane < lanes_of(p); ++lane) pack_kept(p, lane);
  }

  const LinearWeight& weight;
  const PackedLinear& out;
  const PackedDense& d;
  const PackedLinear::Parts at;
  AlignedBuffer<std::byte> memory;

 private:
  std::array<uint8_t, 256> stored_{};  // of each code of the format, in block layouts
  std::optional<CodePacker> code_packer_;
  std::optional<LevelPacker> level_packer_;  // of learned levels with quantized input

  // Columns as places in what the kernels read.
  void place_sparse() {
    std::vector<int32_t> places(static_cast<size_t>(weight.dense_columns()));
    std::iota(places.begin(), places.end(), 0);
    const std::vector<int32_t>& order = out.plan_.order;
    for (size_t k = 0; k < order.size(); ++k)
      if (order[k] >= 0) places[static_cast<size_t>(order[k])] = static_cast<int32_t>(k);
    int32_t* to = array<int32_t>(at.sparse_columns);
    for (int32_t column : weight.sparse.columns) *to++ = places[static_cast<size_t>(column)];
  }

  template <class T>
  T* array(int64_t offset) {
    return reinterpret_cast<T*>(memory.data() + offset);
  }
  uint8_t* codes() { return array<uint8_t>(at.codes); }

  int64_t row_bytes() const {
    if (weight.format.is_float()) return d.k * value_bytes(d.type);
    return weight.rows > 0 ? static_cast<int64_t>(weight.codes.size()) / weight.rows : 0;
  }
  int64_t lanes_of(int64_t panel) const { return std::clamp<int64_t>(weight.rows - panel * kLanes, 0, kLanes); }
  // Lanes beyond N read the last row.
  PanelRows rows_of(int64_t panel) const {
    PanelRows rows;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t n = std::min(panel * kLanes + lane, weight.rows - 1);
      rows[static_cast<size_t>(lane)] = weight.codes.data() + n * row_bytes();
    }
    return rows;
  }

  void pack_kept(int64_t panel, int64_t lane) {
    const int64_t columns = weight.kept_count(), n = panel * kLanes + lane;
    for (int64_t c = 0; c < columns; ++c)
      array<uint16_t>(at.kept)[value_at(out.kept_.type, columns, panel, lane, c)] =
          weight.kept[static_cast<size_t>(n * columns + c)];
  }

  void pack_values(int64_t panel) {
    if (weight.format.has_codes()) {
      for (int64_t lane = 0; lane < lanes_of(panel); ++lane) pack_decoded(panel, lane);
      return;
    }
    const bool whole = lanes_of(panel) == kLanes;
    const bool halves = d.type == PackedType::f16 || d.type == PackedType::bf16;
    uint8_t* const to = codes() + value_at(d.type, d.k, panel, 0, 0) * value_bytes(d.type);
    if (whole && d.type == PackedType::f32) {
      transpose_values(rows_of(panel), d.k, reinterpret_cast<uint32_t*>(to));
    } else if (whole && !halves && d.k % 2 == 0) {  // bfloat16 in pairs
      transpose_values(rows_of(panel), d.k / 2, reinterpret_cast<uint32_t*>(to));
    } else if (whole && halves) {
      transpose_values(rows_of(panel), d.k, reinterpret_cast<uint16_t*>(to));
    } else {
      for (int64_t lane = 0; lane < lanes_of(panel); ++lane) pack_row_of_values(panel, lane);
    }
  }

  void pack_decoded(int64_t panel, int64_t lane) {
    std::vector<float> row(static_cast<size_t>(d.k));
    decode_dense(weight, panel * kLanes + lane, row);
    for (int64_t k = 0; k < d.k; ++k)
      array<uint16_t>(at.codes)[value_at(d.type, d.k, panel, lane, k)] = f32_to_bf16(row[static_cast<size_t>(k)]);
  }

  void pack_row_of_values(int64_t panel, int64_t lane) {
    const int64_t bytes = value_bytes(d.type);
    const std::byte* from = weight.codes.data() + (panel * kLanes + lane) * row_bytes();
    for (int64_t k = 0; k < d.k; ++k)
      std::memcpy(codes() + value_at(d.type, d.k, panel, lane, k) * bytes, from + k * bytes,
                  static_cast<size_t>(bytes));
  }

  // What stands for a code of the format: itself, or where levels are to ascend its level + 2^(bits - 1); with 8 bits
  // the level + 128.
  void make_levels() {
    const std::vector<int8_t> of_code = integer_levels(weight.format)->of_code;
    const int32_t half = half_range(block_bits(d.type));
    for (size_t i = 0; i < stored_.size(); ++i) {
      const int32_t level = i < of_code.size() ? of_code[i] : 0;
      stored_[i] = static_cast<uint8_t>(d.type == PackedType::blocks8 ? level + kLevelZero
                                        : d.ascending                 ? level + half
                                                                      : static_cast<int32_t>(i));
    }
    for (size_t i = 0; i < static_cast<size_t>(kCodes); ++i) {
      const int32_t level = d.ascending ? static_cast<int32_t>(i) - half : i < of_code.size() ? of_code[i] : 0;
      array<uint8_t>(at.levels)[i] = static_cast<uint8_t>(level + kLevelZero);
    }
  }

  // Lanes beyond N and inputs beyond K are level 0; the scales beyond N are the least.
  void pack_blocks(int64_t panel) {
    const int bits = block_bits(d.type);
    const int64_t inputs = d.groups * d.group_size;
    std::vector<uint8_t> row(static_cast<size_t>(d.k)), padded(static_cast<size_t>(inputs));
    uint8_t* const to = codes() + panel * inputs * 2 * bits;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const bool present = lane < lanes_of(panel);
      if (present) decode_codes(weight, panel * kLanes + lane, row);
      std::fill(padded.begin(), padded.end(), level_zero());
      for (size_t k = 0; present && k < row.size(); ++k) padded[k] = stored_[row[k]];
      for (int64_t chunk = 0; chunk < inputs / kChunkInputs; ++chunk)
        store_chunk(std::span(padded).subspan(static_cast<size_t>(chunk * kChunkInputs)), lane, to + chunk * 32 * bits);
      for (int64_t b = 0; present && b < d.groups; ++b)
        array<uint8_t>(at.scales)[(panel * d.groups + b) * kLanes + lane] =
            scale_byte(weight.scales[static_cast<size_t>((panel * kLanes + lane) * d.groups + b)], weight.format.scale);
    }
  }

  uint8_t level_zero() const {
    if (d.type == PackedType::blocks8) return kLevelZero;
    return d.ascending ? static_cast<uint8_t>(half_range(block_bits(d.type))) : uint8_t{0};
  }

  // The sixteen codes of a lane's chunk.
  void store_chunk(std::span<const uint8_t> from, int64_t lane, uint8_t* to) const {
    for (int64_t k = 0; k < kChunkInputs; ++k) {
      const int64_t step = k / kStepInputs, byte = lane * kStepInputs + k % kStepInputs;
      const int code = from[static_cast<size_t>(k)];
      const auto set = [&](int64_t where, int bits) { to[where] = static_cast<uint8_t>(to[where] | bits); };
      if (d.type == PackedType::blocks8) {
        set(step * 64 + byte, code);
        continue;
      }
      set(step / 2 * 64 + byte, (code & 15) << step % 2 * 4);
      if (d.type == PackedType::blocks6) set(128 + byte, code >> 4 << 2 * step);
      if (d.type == PackedType::blocks5) set(128 + byte % 32, code >> 4 << (lane / 8 * 4 + step));
    }
  }

  // Whole panels of codes that lie in the rows as they are numbered, in groups without padding, take the fast way.
  bool runs_fast(int64_t pair) const {
    const int bits = weight.format.bits;
    const int64_t run = bits == 4 ? 32 : 16;
    return (bits == 4 || bits == 8) && !weight.sparse24 && lanes_of(pair * kPair + 1) == kLanes && d.k % run == 0 &&
           d.group_size % run == 0;
  }

  void pack_integers(int64_t pair) {
    const int64_t bytes = d.groups * d.group_steps * 64;
    // Padding is level 0 of both panels in the 4-bit layout; in the 8-bit one it is 0, as allocated.
    const bool padded = d.k != d.groups * d.group_steps * kStepInputs;
    const bool fast = runs_fast(pair);
    if (d.type == PackedType::int4 && (!fast || padded)) std::fill_n(codes() + pair * bytes, bytes, uint8_t{0x08});
    if (fast) return pack_fast(pair);
    for (int64_t panel = pair * kPair; panel < (pair + 1) * kPair; ++panel)
      for (int64_t lane = 0; lane < lanes_of(panel); ++lane) pack_levels(panel, lane);
  }

  void pack_fast(int64_t pair) {
    const int64_t first = pair * kPair, bytes = d.group_steps * 64;
    const PanelRows rows[kPair] = {rows_of(first), rows_of(first + 1)};
    int32_t sums[kPair][kLanes];
    int32_t* const both[kPair] = {sums[0], sums[1]};
    for (int64_t g = 0; g < d.groups; ++g) {
      const int64_t begin = g * d.group_size, count = std::min(d.group_size, d.k - begin);
      if (d.type == PackedType::int4) {
        pack_nibbles(rows[0], rows[1], begin, count, codes() + (pair * d.groups + g) * bytes, both);
      } else {
        for (int64_t p = 0; p < kPair; ++p)
          pack_bytes(rows[p], begin, count, codes() + ((first + p) * d.groups + g) * bytes, sums[p]);
      }
      for (int64_t p = 0; p < kPair; ++p)
        for (int64_t lane = 0; lane < kLanes; ++lane) put_group(first + p, lane, g, sums[p][lane], count);
    }
  }

  // Scale, offset and sum of levels of a group of `count` inputs.
  void put_group(int64_t panel, int64_t lane, int64_t g, int64_t sum, int64_t count) {
    const int64_t entry = (panel * d.groups + g) * kLanes + lane;
    const auto from = static_cast<size_t>((panel * kLanes + lane) * d.groups + g);
    const int32_t zero = weight.format.offset ? weight.offsets[from] - middle_offset(weight.group_bits(g)) : 0;
    if (d.compact) {
      array<uint16_t>(at.scales)[entry] = f32_to_f16(weight.scales[from]);
      array<int16_t>(at.sums)[entry] = static_cast<int16_t>(sum - zero * count);
      if (weight.format.offset) array<int8_t>(at.zeros)[entry] = static_cast<int8_t>(zero);
    } else {
      array<float>(at.scales)[entry] = weight.scales[from];
      // Fits wherever it is used: with quantized input.
      array<int32_t>(at.sums)[entry] = static_cast<int32_t>(sum - zero * count);
      if (weight.format.offset) array<int32_t>(at.zeros)[entry] = zero;
    }
  }

  void pack_levels(int64_t panel, int64_t lane) {
    std::vector<uint8_t> row(static_cast<size_t>(d.k));
    decode_codes(weight, panel * kLanes + lane, row);
    std::vector<int8_t> levels(static_cast<size_t>(d.group_steps * kStepInputs));
    for (int64_t g = 0; g < d.groups; ++g) {
      const int64_t begin = g * d.group_size, count = std::min(d.group_size, d.k - begin);
      pack_group(panel, lane, g, std::span(row).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
                 levels);
    }
  }

  // `levels`: scratch for the levels of a padded group.
  void pack_group(int64_t panel, int64_t lane, int64_t g, std::span<const uint8_t> of_group, std::span<int8_t> levels) {
    const int bits = weight.group_bits(g);
    int64_t sum = 0;
    for (size_t i = 0; i < of_group.size(); ++i) {
      levels[i] = static_cast<int8_t>(level_of(of_group[i], bits));
      sum += levels[i];
    }
    std::fill(levels.begin() + static_cast<std::ptrdiff_t>(of_group.size()), levels.end(), int8_t{0});
    put_group(panel, lane, g, sum, static_cast<int64_t>(of_group.size()));
    store_steps(levels, panel, g, lane);
  }

  // Writes a lane's levels, four bytes to a step. In the 4-bit layout the panel's nibble of every byte is that of level
  // 0.
  void store_steps(std::span<const int8_t> levels, int64_t panel, int64_t g, int64_t lane) {
    const bool int4 = d.type == PackedType::int4;
    const int64_t group = (int4 ? panel / kPair : panel) * d.groups + g;
    uint8_t* to = codes() + group * d.group_steps * 64 + lane * 4;
    for (size_t i = 0; i < levels.size(); ++i) {
      uint8_t& byte = to[i / 4 * 64 + i % 4];
      const auto level = static_cast<uint8_t>(levels[i]);
      if (!int4) {
        byte = level;
      } else if (panel % kPair == 0) {
        byte = static_cast<uint8_t>((byte & 0xF0) | (level + 8));
      } else {
        byte = static_cast<uint8_t>((byte & 0x0F) | level << 4);
      }
    }
  }
};

// The way back, for outputs begin .. end - 1.
struct LinearUnpacker {
  LinearUnpacker(const PackedLinear& packed, int64_t from_row, int64_t to_row)
      : from(packed), begin(from_row), end(to_row) {}

  LinearWeight run() {
    const int64_t k = from.plan_.dense_count();
    weight.rows = end - begin;
    weight.columns = from.plan_.columns;
    weight.format = from.format_.is_integer() || from.format_.is_float() ? from.format_ : NumberFormat();
    weight.activations = from.plan_.activations;
    weight.kept_columns = from.plan_.kept_columns;
    if (from.plan_.kept_halves) weight.kept_levels = Levels::bf16;
    weight.rotation = from.plan_.rotation;
    if (weight.format.is_integer()) weight.widths = from.widths_;
    row_bytes = row_bytes_of(k);
    weight.codes.resize(static_cast<size_t>(weight.rows * row_bytes));
    for (int64_t n = begin; n < end; ++n) unpack_row(n);
    return std::move(weight);
  }

 private:
  const PackedLinear& from;
  int64_t begin, end;
  LinearWeight weight;
  int64_t row_bytes = 0;
  IntegerLevels integer_levels_ = integer_levels(from.format_).value_or(IntegerLevels());

  const uint8_t* codes() const { return static_cast<const uint8_t*>(from.dense_.codes); }

  int64_t row_bytes_of(int64_t k) const {
    return weight.widths.empty() ? packed_bytes(k, weight.format.bits)
                                 : packed_bytes(MixedSizes::of(weight.widths).code_bits, 1);
  }

  void unpack_row(int64_t n) {
    const int64_t panel = n / kLanes, lane = n % kLanes, columns = from.kept_.k;
    const auto row =
        std::span(weight.codes).subspan(static_cast<size_t>((n - begin) * row_bytes), static_cast<size_t>(row_bytes));
    if (from.format_.is_block() || from.format_.is_learned()) {
      unpack_floats(panel, lane, row);
      add_sparse(n, row);
    } else if (is_integer(from.dense_.type)) {
      unpack_levels(panel, lane, row);
    } else {
      unpack_values(panel, lane, row);
    }
    for (int64_t c = 0; c < columns; ++c)
      weight.kept.push_back(
          static_cast<const uint16_t*>(from.kept_.codes)[value_at(from.kept_.type, columns, panel, lane, c)]);
    if (from.has_bias_) weight.bias.push_back(from.bias_[n]);
  }

  // Of the dense ones, for a place in what the kernels read; negative: none.
  int64_t column_of(int64_t k) const { return from.plan_.order.empty() ? k : from.plan_.order[static_cast<size_t>(k)]; }

  void unpack_floats(int64_t panel, int64_t lane, std::span<std::byte> row) {
    const auto* values = static_cast<const uint16_t*>(from.dense_.codes);
    const PackedDense& d = from.dense_;
    const bool blocks = block_bits(d.type) > 0, coded = is_coded(d.type);
    for (int64_t k = 0; k < d.k; ++k) {
      const int64_t column = column_of(k);
      if (column < 0) continue;
      const float value = is_integer(d.type) ? load_level_value(panel, lane, k, column)
                          : blocks           ? load_block_value(panel, lane, k)
                          : coded            ? from.outer_ * bf16_to_f32(ref::coded_value(d, panel, lane, k))
                                             : from.outer_ * bf16_to_f32(values[value_at(d.type, d.k, panel, lane, k)]);
      std::memcpy(row.data() + column * 4, &value, 4);
    }
  }

  // level * 2^exponent.
  float load_level_value(int64_t panel, int64_t lane, int64_t k, int64_t column) const {
    const PackedDense& d = from.dense_;
    const std::vector<int8_t>& exponents = from.plan_.exponents;
    const int64_t g = k / d.group_size;
    const int32_t level =
        d.type == PackedType::int8 ? load_level(panel, g, lane, k % d.group_size) : ref::coded_level(d, panel, lane, k);
    const float scale = exponents.empty() ? static_cast<const float*>(d.scales)[(panel * d.groups + g) * kLanes + lane]
                                          : std::ldexp(1.0f, exponents[static_cast<size_t>(column)]);
    return scale * static_cast<float>(level);
  }

  void add_sparse(int64_t n, std::span<std::byte> row) const {
    if (from.sparse_count_ == 0) return;
    for (int64_t i = n == 0 ? 0 : from.sparse_.row_ends[n - 1]; i < from.sparse_.row_ends[n]; ++i) {
      std::byte* const at = row.data() + 4 * column_of(from.sparse_.columns[i]);
      float value;
      std::memcpy(&value, at, 4);
      value += from.sparse_.values[i];
      std::memcpy(at, &value, 4);
    }
  }

  // outer * (scale * level), as the format says.
  float load_block_value(int64_t panel, int64_t lane, int64_t k) const {
    const PackedDense& d = from.dense_;
    const int bits = block_bits(d.type), half = d.e4m3 ? 8 : 0;
    const int64_t step = k / kStepInputs % kChunkSteps, at = lane * kStepInputs + k % kStepInputs;
    const uint8_t* chunk = codes() + (panel * d.groups * d.group_size + k / kChunkInputs * kChunkInputs) * 2 * bits;
    int level = 0;
    if (bits == 8) {
      level = chunk[step * 64 + at] - kLevelZero;
    } else {
      int code = chunk[step / 2 * 64 + at] >> step % 2 * 4 & 15;
      if (bits == 6) code |= (chunk[128 + at] >> 2 * step & 3) << 4;
      if (bits == 5) code |= (chunk[128 + at % 32] >> (lane / 8 * 4 + step) & 1) << 4;
      level = d.levels[code] - kLevelZero;
    }
    const uint8_t scale = static_cast<const uint8_t*>(d.scales)[(panel * d.groups + k / d.group_size) * kLanes + lane];
    const int shift = integer_levels_.shift;
    return std::ldexp(d.factor, shift - half) *
           (scale_of_byte(scale, from.format_.scale) * std::ldexp(static_cast<float>(level), -shift));
  }

  void unpack_values(int64_t panel, int64_t lane, std::span<std::byte> row) {
    const int64_t k_end = from.dense_.k, bytes = value_bytes(from.dense_.type);
    for (int64_t k = 0; k < k_end; ++k)
      std::memcpy(row.data() + k * bytes, codes() + value_at(from.dense_.type, k_end, panel, lane, k) * bytes,
                  static_cast<size_t>(bytes));
  }

  void unpack_levels(int64_t panel, int64_t lane, std::span<std::byte> row) {
    const PackedDense& d = from.dense_;
    std::vector<uint8_t> unpacked(static_cast<size_t>(d.k));
    for (int64_t k = 0; k < d.k; ++k) {
      const int64_t g = k / d.group_size, i = k % d.group_size;
      const int bits = weight.group_bits(g);
      // Cut to its bits: an image may hold any bytes.
      unpacked[static_cast<size_t>(k)] =
          static_cast<uint8_t>(code_of(load_level(panel, g, lane, i), bits) & ((1 << bits) - 1));
    }
    for (int64_t g = 0; g < d.groups; ++g) {
      const int64_t entry = (panel * d.groups + g) * kLanes + lane;
      weight.scales.push_back(d.compact ? f16_to_f32(static_cast<const uint16_t*>(d.scales)[entry])
                                        : static_cast<const float*>(d.scales)[entry]);
      if (!from.format_.offset) continue;
      const int32_t zero =
          d.compact ? static_cast<const int8_t*>(d.zeros)[entry] : static_cast<const int32_t*>(d.zeros)[entry];
      weight.offsets.push_back(static_cast<uint8_t>(zero + middle_offset(weight.group_bits(g))));
    }
    if (weight.widths.empty()) return pack_codes(unpacked, from.format_.bits, row);
    pack_codes(unpacked, weight.widths, row);
  }

  // Input i of group g.
  int32_t load_level(int64_t panel, int64_t g, int64_t lane, int64_t i) const {
    const PackedDense& d = from.dense_;
    const bool int4 = d.type == PackedType::int4;
    const int64_t group = (int4 ? panel / kPair : panel) * d.groups + g;
    const uint8_t byte = codes()[(group * d.group_steps + i / 4) * 64 + lane * 4 + i % 4];
    if (!int4) return static_cast<int8_t>(byte);
    return panel % kPair == 0 ? (byte & 15) - 8 : static_cast<int8_t>(byte) >> 4;
  }
};

namespace {

// Why `row` does not serve a layer's weights and input; empty when it does.
std::string refusal(const LinearRow& row, const PackedDense& dense, const NumberFormat& input) {
  if (row.weights != dense.type) return "other weights";
  const bool blocks = block_bits(row.weights) > 0;  // which only input in blocks is packed for
  if (row.integer_input != (blocks || input.is_integer())) return "other input";
  if (row.integer_input && input.bits > row.max_activation_bits)
    return fmt::format("serves input of {} bits at most, this has {}", row.max_activation_bits, input.bits);
  if (row.integer_input && dense.group_steps % row.step_multiple != 0)
    return fmt::format("serves groups of multiples of {} inputs", row.step_multiple * kStepInputs);
  return {};
}

bool serves(const LinearRow& row, int64_t tokens) { return tokens >= row.min_m; }

std::vector<const LinearRow*> serving_rows(const PackedDense& dense, const NumberFormat& input, Isa isa) {
  std::vector<const LinearRow*> rows;
  for (const LinearRow* row : linear_rows(isa))
    if (refusal(*row, dense, input).empty()) rows.push_back(row);
  return rows;
}

const LinearRow* first_serving(const std::vector<const LinearRow*>& rows, int64_t tokens) {
  for (const LinearRow* row : rows)
    if (serves(*row, tokens)) return row;
  return rows.empty() ? nullptr : rows.back();
}

}  // namespace

Status PackedLinear::choose_rows() {
  rows_ = serving_rows(dense_, plan_.activations, isa_);
  if (kept_.k > 0) kept_rows_ = serving_rows(kept_, NumberFormat(), isa_);
  if (rows_.empty()) return fail(ErrorCode::unsupported, "{}: no kernel serves it", describe(shape()));
  return {};
}

Result<PackedLinear> PackedLinear::pack(const LinearWeight& weight, Isa isa, ThreadPool& pool) {
  NIBBLE_DO(weight.validate("linear layer"));
  NIBBLE_TRY(PackedLinear out, make(shape_of(weight), isa));
  NIBBLE_DO(out.choose_rows());
  LinearPacker packer(weight, out);
  // In pieces of some megabytes, so that no more than that of a mapped file is resident.
  constexpr int64_t kPiece = int64_t{32} << 20;
  const int64_t pairs = packer.pairs(), bytes = static_cast<int64_t>(weight.codes.size());
  const int64_t step = std::max<int64_t>(1, bytes > 0 ? pairs * kPiece / bytes : pairs);
  for (int64_t begin = 0; begin < pairs; begin += step) {
    const int64_t end = std::min(pairs, begin + step);
    pool.run(end - begin, [&](int64_t i) { packer.pack_pair(begin + i); });
    if (weight.codes.is_borrowed()) MappedFile::release_pages(packer.source(begin, end));
  }
  auto memory = std::make_shared<const AlignedBuffer<std::byte>>(std::move(packer.memory));
  const auto image = memory->span();
  out.place(image, std::move(memory));
  return out;
}

Result<PackedLinear> PackedLinear::view(const PackedShape& shape, Isa isa, std::span<const std::byte> image,
                                        std::shared_ptr<const void> owner) {
  NIBBLE_DO(check_shape(shape));
  NIBBLE_TRY(PackedLinear out, make(shape, isa));
  NIBBLE_DO(out.choose_rows());
  if (const int64_t expected = out.parts().end; static_cast<int64_t>(image.size()) != expected)
    return fail(ErrorCode::corrupt, "{}: its image has {} bytes, expected {}", describe(shape), image.size(), expected);
  out.place(image, std::move(owner));
  NIBBLE_DO(out.check_sparse());
  return out;
}

// A kernel reads what these numbers point at.
Status PackedLinear::check_sparse() const {
  int32_t begin = 0;
  for (int64_t n = 0; sparse_count_ > 0 && n < n_; begin = sparse_.row_ends[n++])
    if (sparse_.row_ends[n] < begin || sparse_.row_ends[n] > sparse_count_)
      return fail(ErrorCode::corrupt, "{}: sparse row {} ends at {}", describe(shape()), n, sparse_.row_ends[n]);
  for (int64_t i = 0; i < sparse_count_; ++i)
    if (sparse_.columns[i] < 0 || sparse_.columns[i] >= dense_.k || !plan_.has_column(sparse_.columns[i]))
      return fail(ErrorCode::corrupt, "{}: sparse column {} of {}", describe(shape()), sparse_.columns[i], dense_.k);
  return {};
}

int64_t PackedLinear::bytes() const { return static_cast<int64_t>(image_.size()); }

const LinearRow& PackedLinear::row_for(int64_t tokens) const { return *first_serving(rows_, tokens); }

const LinearRow* PackedLinear::kept_row_for(int64_t tokens) const { return first_serving(kept_rows_, tokens); }

std::string PackedLinear::explain(int64_t tokens) const {
  const LinearRow& chosen = row_for(tokens);
  std::string refused;
  for (const IsaTable& entry : all_tables()) {
    for (const LinearRow* row = entry.table->linear; row->kernel != nullptr; ++row) {
      if (row == &chosen) return refused.empty() ? chosen.name : fmt::format("{} ({})", chosen.name, refused);
      std::string why = refusal(*row, dense_, plan_.activations);
      if (why.starts_with("other ")) continue;
      if (why.empty()) why = serves(*row, tokens) ? "" : fmt::format("pays from {} tokens on", row->min_m);
      if (entry.isa > isa_) why = fmt::format("needs {}, running {}", to_string(entry.isa), to_string(isa_));
      refused += fmt::format("{}{}: {}", refused.empty() ? "" : "; ", row->name, why);
    }
  }
  return chosen.name;
}

LinearWeight PackedLinear::unpack() const { return LinearUnpacker(*this, 0, n_).run(); }

void PackedLinear::read_row(int64_t n, std::span<float> out) const {
  decode_row(LinearUnpacker(*this, n, n + 1).run(), 0, out);
}

}  // namespace nibble
