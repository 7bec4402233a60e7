// Kernel layout to canonical weights.
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "format/integer_levels.h"
#include "kernels/layout.h"
#include "kernels/linear.h"
#include "kernels/ref/coded.h"

namespace nibble {

// Of outputs begin .. end - 1.
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

LinearWeight PackedLinear::unpack() const { return LinearUnpacker(*this, 0, n_).run(); }

void PackedLinear::read_row(int64_t n, std::span<float> out) const {
  decode_row(LinearUnpacker(*this, n, n + 1).run(), 0, out);
}

}  // namespace nibble
