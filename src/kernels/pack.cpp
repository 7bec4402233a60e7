// Canonical weights to kernel layout and back. A pair of panels of 16 outputs is packed by one task; pairs do not
// depend on each other.
#include <algorithm>

#include "core/checked.h"
#include "core/half.h"
#include "kernels/linear.h"
#include "kernels/list.h"

namespace nibble {
namespace {

PackedType packed_type(const NumberFormat& format) {
  switch (format.levels) {
    case Levels::integer: return format.bits <= 4 ? PackedType::int4 : PackedType::int8;
    case Levels::f32: return PackedType::f32;
    case Levels::f16: return PackedType::f16;
    case Levels::bf16: return PackedType::bf16;
  }
  return PackedType::f32;
}

bool is_integer(PackedType type) { return type == PackedType::int4 || type == PackedType::int8; }

constexpr int64_t kStepInputs = 4;
constexpr int64_t kPair = 2;  // panels

int64_t value_bytes(PackedType type) { return type == PackedType::f32 ? 4 : 2; }

// Half of the codes' range: level = code - half, for symmetric and asymmetric grids alike.
int32_t half_range(int bits) { return int32_t{1} << (bits - 1); }

std::string describe(const LinearWeight& weight) {
  return fmt::format("a linear layer of {} x {} in {} with input in {}", weight.rows, weight.columns,
                     to_string(weight.format), to_string(weight.activations));
}

// The largest |sum over a group| of (code - zero) * (level - zero) must fit an int32; in the 4-bit layout sixteen times
// the sum of code * level must, which is how a kernel finds it.
bool sums_fit(const LinearWeight& weight, int64_t group_size) {
  const int64_t code = weight.activations.levels_count() - 1;
  int64_t level = weight.format.offset ? weight.format.levels_count() - 1 : half_range(weight.format.bits);
  if (weight.format.bits <= 4) level = 16 * half_range(4);
  return group_size <= INT32_MAX / (code * level);
}

Status check_input(const LinearWeight& weight, int64_t group_size) {
  const NumberFormat& input = weight.activations;
  if (!input.is_integer()) return {};
  if (!weight.format.is_integer())
    return fail(ErrorCode::unsupported, "{}: quantized input needs integer weights", describe(weight));
  if (input.sharing != Sharing::token && input.sharing != Sharing::row)
    return fail(ErrorCode::unsupported, "{}: quantized input must have one scale per token", describe(weight));
  if (!sums_fit(weight, group_size))
    return fail(ErrorCode::unsupported, "{}: sums over {} inputs may exceed 32 bits; use groups", describe(weight),
                group_size);
  return {};
}

InputPlan make_plan(const LinearWeight& weight) {
  InputPlan plan;
  plan.activations = weight.activations;
  plan.columns = weight.columns;
  plan.kept_columns = weight.kept_columns;
  if (weight.kept_count() > 0) plan.dense_columns = dense_columns_of(weight.columns, weight.kept_columns);
  if (weight.activations.is_integer()) {
    const int64_t dense = weight.dense_columns();
    plan.group_size = std::min(weight.format.group_size(dense), dense);
    plan.groups = weight.groups();
    plan.group_stride = round_up(plan.group_size, 2 * kStepInputs);
  }
  return plan;
}

}  // namespace

// Fills one PackedLinear from a weight that has been validated.
struct LinearPacker {
  const LinearWeight& weight;
  PackedLinear out;

  PackedDense& dense() { return out.dense_; }
  int64_t panels() const { return round_up(ceil_div(weight.rows, kLanes), kPair); }
  int64_t pairs() const { return panels() / kPair; }

  void shape(Isa isa) {
    out.n_ = weight.rows;
    out.isa_ = isa;
    out.format_ = weight.format;
    out.plan_ = make_plan(weight);
    PackedDense& d = out.dense_;
    d.type = packed_type(weight.format);
    d.n = weight.rows;
    d.k = weight.dense_columns();
    d.group_size = std::min(weight.format.group_size(d.k), d.k);
    d.groups = is_integer(d.type) ? weight.groups() : 1;
    d.group_steps = is_integer(d.type) ? round_up(d.group_size, 2 * kStepInputs) / kStepInputs : 0;
  }

  void allocate() {
    PackedDense& d = out.dense_;
    const int64_t entries = panels() * d.groups * kLanes;
    out.codes_ = AlignedBuffer<uint8_t>(std::max<int64_t>(64, code_bytes()));  // never null: kernels add to it
    if (is_integer(d.type)) {
      out.scales_ = AlignedBuffer<float>(entries);
      out.sums_ = AlignedBuffer<int32_t>(entries);
      if (weight.format.offset) out.zeros_ = AlignedBuffer<int32_t>(entries);
    }
    out.kept_values_ = AlignedBuffer<uint16_t>(panels() * weight.kept_count() * kLanes);
    if (!weight.bias.empty()) out.bias_ = AlignedBuffer<float>(panels() * kLanes);
    std::copy(weight.bias.begin(), weight.bias.end(), out.bias_.data());
    d.codes = out.codes_.data();
    d.scales = out.scales_.data();
    d.sums = out.sums_.data();
    d.zeros = out.zeros_.data();
    out.kept_ = {out.kept_values_.data(), weight.kept_count()};
  }

  void pack_pair(int64_t pair) {
    // Lanes beyond N: level 0 of both panels in the 4-bit layout; in the others 0, as allocated.
    const PackedDense& d = dense();
    const int64_t bytes = d.groups * d.group_steps * 64;
    if (d.type == PackedType::int4) std::fill_n(out.codes_.data() + pair * bytes, bytes, uint8_t{0x08});
    for (int64_t panel = pair * kPair; panel < (pair + 1) * kPair; ++panel) pack_panel(panel);
  }

 private:
  int64_t code_bytes() const {
    const PackedDense& d = out.dense_;
    const int64_t integers = d.groups * d.group_steps * 64;
    if (d.type == PackedType::int4) return pairs() * integers;
    return panels() * (d.type == PackedType::int8 ? integers : d.k * kLanes * value_bytes(d.type));
  }

  void pack_panel(int64_t panel) {
    const int64_t rows = std::clamp<int64_t>(weight.rows - panel * kLanes, 0, kLanes);
    for (int64_t lane = 0; lane < rows; ++lane) {
      if (is_integer(dense().type)) {
        pack_levels(panel, lane);
      } else {
        pack_values(panel, lane);
      }
      pack_kept(panel, lane);
    }
  }

  void pack_kept(int64_t panel, int64_t lane) {
    const int64_t columns = weight.kept_count(), n = panel * kLanes + lane;
    for (int64_t c = 0; c < columns; ++c)
      out.kept_values_[(panel * columns + c) * kLanes + lane] = weight.kept[static_cast<size_t>(n * columns + c)];
  }

  void pack_values(int64_t panel, int64_t lane) {
    const int64_t k_end = dense().k, bytes = value_bytes(dense().type);
    const std::byte* from = weight.codes.data() + (panel * kLanes + lane) * k_end * bytes;
    uint8_t* to = out.codes_.data() + (panel * k_end * kLanes + lane) * bytes;
    for (int64_t k = 0; k < k_end; ++k)
      std::memcpy(to + k * kLanes * bytes, from + k * bytes, static_cast<size_t>(bytes));
  }

  void pack_levels(int64_t panel, int64_t lane) {
    const PackedDense& d = dense();
    std::vector<uint8_t> codes(static_cast<size_t>(d.k));
    decode_codes(weight, panel * kLanes + lane, codes);
    std::vector<int8_t> levels(static_cast<size_t>(d.group_steps * kStepInputs));
    for (int64_t g = 0; g < d.groups; ++g) {
      const int64_t begin = g * d.group_size, count = std::min(d.group_size, d.k - begin);
      pack_group(panel, lane, g, std::span(codes).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
                 levels);
    }
  }

  // `levels`: scratch for the levels of a padded group.
  void pack_group(int64_t panel, int64_t lane, int64_t g, std::span<const uint8_t> codes, std::span<int8_t> levels) {
    const PackedDense& d = dense();
    const int32_t half = half_range(weight.format.bits);
    int64_t sum = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      levels[i] = static_cast<int8_t>(codes[i] - half);
      sum += levels[i];
    }
    std::fill(levels.begin() + static_cast<std::ptrdiff_t>(codes.size()), levels.end(), int8_t{0});
    const int64_t entry = (panel * d.groups + g) * kLanes + lane;
    const auto at = static_cast<size_t>((panel * kLanes + lane) * d.groups + g);
    const int32_t zero = weight.format.offset ? weight.offsets[at] - half : 0;
    out.scales_[entry] = weight.scales[at];
    // Fits wherever it is used: with quantized input.
    out.sums_[entry] = static_cast<int32_t>(sum - zero * static_cast<int64_t>(codes.size()));
    if (weight.format.offset) out.zeros_[entry] = zero;
    store_steps(levels, panel, g, lane);
  }

  // Writes a lane's levels, four bytes to a step. In the 4-bit layout the panel's nibble of every byte is that of level
  // 0.
  void store_steps(std::span<const int8_t> levels, int64_t panel, int64_t g, int64_t lane) {
    const PackedDense& d = dense();
    const bool int4 = d.type == PackedType::int4;
    const int64_t group = (int4 ? panel / kPair : panel) * d.groups + g;
    uint8_t* to = out.codes_.data() + group * d.group_steps * 64 + lane * 4;
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
    const int64_t k = from.dense_.k;
    weight.rows = end - begin;
    weight.columns = from.plan_.columns;
    weight.format = from.format_;
    weight.activations = from.plan_.activations;
    weight.kept_columns = from.plan_.kept_columns;
    row_bytes = is_integer(from.dense_.type) ? packed_bytes(k, weight.format.bits) : k * value_bytes(from.dense_.type);
    weight.codes.resize(static_cast<size_t>(weight.rows * row_bytes));
    for (int64_t n = begin; n < end; ++n) unpack_row(n);
    return std::move(weight);
  }

 private:
  const PackedLinear& from;
  int64_t begin, end;
  LinearWeight weight;
  int64_t row_bytes = 0;

  void unpack_row(int64_t n) {
    const int64_t panel = n / kLanes, lane = n % kLanes, columns = from.kept_.columns;
    const auto row =
        std::span(weight.codes).subspan(static_cast<size_t>((n - begin) * row_bytes), static_cast<size_t>(row_bytes));
    if (is_integer(from.dense_.type)) {
      unpack_levels(panel, lane, row);
    } else {
      unpack_values(panel, lane, row);
    }
    for (int64_t c = 0; c < columns; ++c)
      weight.kept.push_back(from.kept_values_[(panel * columns + c) * kLanes + lane]);
    if (from.bias_.size() > 0) weight.bias.push_back(from.bias_[n]);
  }

  void unpack_values(int64_t panel, int64_t lane, std::span<std::byte> row) {
    const int64_t k_end = from.dense_.k, bytes = value_bytes(from.dense_.type);
    const uint8_t* values = from.codes_.data() + (panel * k_end * kLanes + lane) * bytes;
    for (int64_t k = 0; k < k_end; ++k)
      std::memcpy(row.data() + k * bytes, values + k * kLanes * bytes, static_cast<size_t>(bytes));
  }

  void unpack_levels(int64_t panel, int64_t lane, std::span<std::byte> row) {
    const PackedDense& d = from.dense_;
    const int32_t half = half_range(from.format_.bits);
    std::vector<uint8_t> codes(static_cast<size_t>(d.k));
    for (int64_t k = 0; k < d.k; ++k) {
      const int64_t g = k / d.group_size, i = k % d.group_size;
      codes[static_cast<size_t>(k)] = static_cast<uint8_t>(load_level(panel, g, lane, i) + half);
    }
    for (int64_t g = 0; g < d.groups; ++g) {
      const int64_t entry = (panel * d.groups + g) * kLanes + lane;
      weight.scales.push_back(from.scales_[entry]);
      if (from.format_.offset) weight.offsets.push_back(static_cast<uint8_t>(from.zeros_[entry] + half));
    }
    pack_codes(codes, from.format_.bits, row);
  }

  // Input i of group g.
  int32_t load_level(int64_t panel, int64_t g, int64_t lane, int64_t i) const {
    const PackedDense& d = from.dense_;
    const bool int4 = d.type == PackedType::int4;
    const int64_t group = (int4 ? panel / kPair : panel) * d.groups + g;
    const uint8_t byte = from.codes_[(group * d.group_steps + i / 4) * 64 + lane * 4 + i % 4];
    if (!int4) return static_cast<int8_t>(byte);
    return panel % kPair == 0 ? (byte & 15) - 8 : static_cast<int8_t>(byte) >> 4;
  }
};

namespace {

// Why `row` does not serve a layer's weights and input; empty when it does.
std::string refusal(const LinearRow& row, const PackedDense& dense, const NumberFormat& input) {
  if (row.weights != dense.type) return "other weights";
  if (row.integer_input != input.is_integer()) return "other input";
  if (row.integer_input && input.bits > row.max_activation_bits)
    return fmt::format("serves input of {} bits at most, this has {}", row.max_activation_bits, input.bits);
  if (row.integer_input && dense.group_steps % row.step_multiple != 0)
    return fmt::format("serves groups of multiples of {} inputs", row.step_multiple * kStepInputs);
  return {};
}

bool serves(const LinearRow& row, int64_t tokens) { return tokens >= row.min_m; }

}  // namespace

Result<PackedLinear> PackedLinear::pack(const LinearWeight& weight, Isa isa, ThreadPool& pool) {
  NIBBLE_DO(weight.validate("linear layer"));
  LinearPacker packer{weight, {}};
  packer.shape(isa);
  NIBBLE_DO(check_input(weight, packer.dense().group_size));
  packer.allocate();
  pool.run(packer.pairs(), [&](int64_t pair) { packer.pack_pair(pair); });
  PackedLinear& out = packer.out;
  for (const LinearRow* row : linear_rows(isa))
    if (refusal(*row, out.dense_, weight.activations).empty()) out.rows_.push_back(row);
  if (out.rows_.empty()) return fail(ErrorCode::unsupported, "{}: no kernel serves it", describe(weight));
  return std::move(packer.out);
}

int64_t PackedLinear::bytes() const {
  return codes_.size() + 4 * (scales_.size() + zeros_.size() + sums_.size() + bias_.size()) + 2 * kept_values_.size();
}

const LinearRow& PackedLinear::row_for(int64_t tokens) const {
  for (const LinearRow* row : rows_)
    if (serves(*row, tokens)) return *row;
  return *rows_.back();
}

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
