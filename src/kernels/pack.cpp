// Canonical weights to kernel layout. A pair of panels of 16 outputs is packed by one task; pairs do not depend on each
// other.
#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <optional>

#include "core/file.h"
#include "core/half.h"
#include "format/integer_levels.h"
#include "kernels/layout.h"
#include "kernels/linear.h"
#include "kernels/pack_coded.h"
#include "kernels/pack_levels.h"
#include "kernels/packed_shape.h"
#include "kernels/transpose.h"

namespace nibble {

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

}  // namespace nibble
