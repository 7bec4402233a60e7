// A packed layer: where its arrays lie, and which kernels serve it.
#include <algorithm>
#include <cmath>

#include "format/integer_levels.h"
#include "kernels/layout.h"
#include "kernels/linear.h"
#include "kernels/list.h"
#include "kernels/pack_coded.h"
#include "kernels/pack_levels.h"
#include "kernels/packed_shape.h"

namespace nibble {
namespace {

// Why `row` does not serve a layer's weights and input; empty when it does.
std::string refusal(const LinearRow& row, const PackedDense& dense, const NumberFormat& input) {
  if (row.weights != dense.type) return "other weights";
  const bool blocks = block_bits(row.weights) > 0;  // which only input in blocks is packed for
  if ((row.activation_bits > 0) != (blocks || input.is_integer())) return "other input";
  if (row.activation_bits > 0 && input.bits > row.activation_bits)
    return fmt::format("serves input of {} bits at most, this has {}", row.activation_bits, input.bits);
  if (row.activation_bits > 0 && dense.group_steps % row.traits.step_multiple != 0)
    return fmt::format("serves groups of multiples of {} inputs", row.traits.step_multiple * kStepInputs);
  return {};
}

bool serves(const LinearRow& row, int64_t tokens) { return tokens >= row.traits.min_m; }

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

// Bytes of codes that lie together: of a panel, or in the 4-bit layout of a pair.
int64_t bytes_of_piece(const PackedDense& d) {
  if (is_coded(d.type) || d.type == PackedType::coded_integers) return d.panel_bytes;
  if (is_integer(d.type)) return d.groups * d.group_steps * 64;
  if (const int bits = block_bits(d.type); bits > 0) return d.groups * d.group_steps * 8 * bits;
  return padded_inputs(d.type, d.k) * kLanes * value_bytes(d.type);
}

}  // namespace

int64_t PackedLinear::panels() const { return round_up(ceil_div(n_, kLanes), kPair); }

PackedLinear::Parts PackedLinear::parts() const {
  const PackedDense& d = dense_;
  const int64_t pieces = d.type == PackedType::int4 ? panels() / kPair : panels();  // whose codes lie together
  const int64_t entries = is_integer(d.type) ? panels() * d.groups * kLanes : 0;
  const bool blocks = block_bits(d.type) > 0, coded = is_coded(d.type);
  const bool scale_bytes = blocks || (coded && has_scales_);
  Parts parts;
  int64_t end = 0;
  const auto add = [&](int64_t& offset, int64_t bytes) {
    offset = end;
    end = round_up(end + bytes, 64);
  };
  add(parts.codes, std::max<int64_t>(64, pieces * bytes_of_piece(d)));  // never nothing: kernels add to the address
  add(parts.scales, scale_bytes ? panels() * d.groups * kLanes : entries * (d.compact ? 2 : 4));
  add(parts.sums, entries * (d.compact ? 2 : 4));
  add(parts.zeros, format_.offset ? entries * (d.compact ? 1 : 4) : 0);
  add(parts.levels, blocks ? kCodes : coded ? table_values_ * 2 + 4 : table_values_);  // a number is read as four bytes
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
  d.type = packed_type(shape, isa);
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

Status PackedLinear::choose_rows() {
  rows_ = serving_rows(dense_, plan_.activations, isa_);
  if (kept_.k > 0) kept_rows_ = serving_rows(kept_, NumberFormat(), isa_);
  if (rows_.empty()) return fail(ErrorCode::unsupported, "{}: no kernel serves it", describe(shape()));
  return {};
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
      if (why.empty()) why = serves(*row, tokens) ? "" : fmt::format("pays from {} tokens on", row->traits.min_m);
      if (entry.isa > isa_) why = fmt::format("needs {}, running {}", to_string(entry.isa), to_string(isa_));
      refused += fmt::format("{}{}: {}", refused.empty() ? "" : "; ", row->name, why);
    }
  }
  return chosen.name;
}

}  // namespace nibble
