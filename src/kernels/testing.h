// Random layers and inputs for the tests of this folder.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/checked.h"
#include "core/cpu.h"
#include "core/half.h"
#include "core/random.h"
#include "format/block_scale.h"
#include "format/linear_weight.h"

namespace nibble::testing {

// The instruction sets that this machine can run.
inline std::vector<Isa> machine_isas() {
  std::vector<Isa> isas;
  for (Isa isa : kAllIsas)
    if (isa <= detected_isa()) isas.push_back(isa);
  return isas;
}

inline NumberFormat format_of(std::string_view text) { return parse_format(text).value(); }

struct LayerShape {
  int64_t rows = 1, columns = 1, kept = 0;
  std::string format = "int4", activations = "f32";
  bool bias = false, sparse24 = false, sparse_part = false;
  Levels kept_levels = Levels::f16;
  int extreme = 0;  // codes: 0 random, 1 all least, 2 all greatest, 3 either
};

inline std::vector<int32_t> some_columns(Random& random, int64_t columns, int64_t count) {
  std::vector<int32_t> chosen;
  for (int32_t column = 0; column < columns; ++column) {
    const auto left = static_cast<uint64_t>(columns - column);
    if (random.below(left) < static_cast<uint64_t>(count) - chosen.size()) chosen.push_back(column);
  }
  return chosen;
}

inline uint8_t random_code(Random& random, int bits, int extreme) {
  const uint64_t most = (1u << bits) - 1;
  if (extreme == 1) return 0;
  if (extreme == 2) return static_cast<uint8_t>(most);
  if (extreme == 3) return static_cast<uint8_t>(random.below(2) * most);
  return static_cast<uint8_t>(random.below(most + 1));
}

// Groups of up to 4 bits, or of up to 8, each of its own.
inline void fill_open_groups(Random& random, const LayerShape& shape, LinearWeight& weight) {
  const int64_t dense = weight.dense_columns(), most = random.below(2) == 0 ? 4 : 8;
  for (int64_t g = 0; g < weight.groups(); ++g)
    weight.widths.insert(weight.widths.end(),
                         static_cast<size_t>(std::min(weight.format.group, dense - g * weight.format.group)),
                         static_cast<uint8_t>(1 + random.below(static_cast<uint64_t>(most))));
  for (int64_t n = 0; n < weight.rows; ++n) {
    std::vector<uint8_t> codes;
    for (const uint8_t width : weight.widths) codes.push_back(random_code(random, width, shape.extreme));
    Bytes packed(static_cast<size_t>(packed_bytes(MixedSizes::of(weight.widths).code_bits, 1)));
    pack_codes(codes, weight.widths, packed);
    weight.codes.append(packed);
    for (int64_t g = 0; g < weight.groups(); ++g) {
      weight.scales.push_back(round_scale(0.001f + 0.01f * random.uniform(), weight.format.scale));
      const auto offsets = static_cast<uint64_t>(most_offset(weight.group_bits(g)));
      if (weight.format.offset) weight.offsets.push_back(static_cast<uint8_t>(random.below(offsets + 1)));
    }
  }
}

inline void fill_codes(Random& random, const LayerShape& shape, LinearWeight& weight) {
  if (weight.format.bits == 0) return fill_open_groups(random, shape, weight);
  const int64_t stored = weight.sparse24 ? weight.dense_columns() / 2 : weight.dense_columns();
  const int64_t row_bytes = packed_bytes(stored, weight.format.bits);
  weight.codes.resize(static_cast<size_t>(weight.rows * row_bytes));
  std::vector<uint8_t> codes(static_cast<size_t>(stored));
  for (int64_t n = 0; n < weight.rows; ++n) {
    for (uint8_t& code : codes) code = random_code(random, weight.format.bits, shape.extreme);
    pack_codes(codes, weight.format.bits,
               std::span(weight.codes).subspan(static_cast<size_t>(n * row_bytes), static_cast<size_t>(row_bytes)));
  }
  for (int64_t i = 0; i < weight.rows * weight.groups(); ++i) {
    weight.scales.push_back(round_scale(0.001f + 0.01f * random.uniform(), weight.format.scale));
    if (weight.format.offset) weight.offsets.push_back(random_code(random, weight.format.bits, shape.extreme));
  }
}

inline void fill_pattern(Random& random, LinearWeight& weight) {
  constexpr uint8_t kPatterns[] = {0 | 1 << 2, 0 | 2 << 2, 0 | 3 << 2, 1 | 2 << 2, 1 | 3 << 2, 2 | 3 << 2};
  const int64_t quads = weight.dense_columns() / 4, row_bytes = ceil_div(quads, 2);
  weight.pattern.resize(static_cast<size_t>(weight.rows * row_bytes));
  for (int64_t n = 0; n < weight.rows; ++n)
    for (int64_t quad = 0; quad < quads; ++quad)
      weight.pattern[static_cast<size_t>(n * row_bytes + quad / 2)] |=
          static_cast<std::byte>(kPatterns[random.below(6)] << (quad % 2 * 4));
}

inline void fill_values(Random& random, LinearWeight& weight) {
  for (int64_t i = 0; i < weight.rows * weight.dense_columns(); ++i) {
    const float value = random.normal();
    std::byte bytes[4];
    const uint16_t half = weight.format.levels == Levels::f16 ? f32_to_f16(value) : f32_to_bf16(value);
    if (weight.format.levels == Levels::f32) {
      std::memcpy(bytes, &value, 4);
    } else {
      std::memcpy(bytes, &half, 2);
    }
    weight.codes.append(std::span(bytes).first(static_cast<size_t>(weight.format.bits / 8)));
  }
}

// Tables, codes and a sparse part of learned levels; columns with bits of their own have 1 to 8. Tables by column have
// the exponents -7, -6, -5 in turn, so that layers of one site agree.
inline void fill_learned(Random& random, const LayerShape& shape, LinearWeight& weight) {
  const int64_t dense = weight.dense_columns();
  if (weight.format.bits == 0)
    for (int64_t k = 0; k < dense; ++k) weight.widths.push_back(static_cast<uint8_t>(1 + random.below(8)));
  const auto add_table = [&](int bits, int exponent) {
    weight.exponents.push_back(static_cast<int8_t>(exponent));
    if (bits > kTableBits) return;
    const auto least = static_cast<int32_t>(random.below(32)) - 127, room = 222 >> bits;
    for (int32_t i = 0, level = least; i < 1 << bits; ++i) {
      weight.levels.push_back(std::ldexp(static_cast<float>(level), exponent));
      level += 1 + static_cast<int32_t>(random.below(static_cast<uint64_t>(room)));
    }
  };
  const bool by_column = weight.format.sharing == Sharing::column;
  const int64_t tables = by_column ? dense : weight.rows * weight.groups();
  for (int64_t t = 0; t < tables; ++t)
    add_table(weight.widths.empty() ? weight.format.bits : weight.widths[static_cast<size_t>(t)],
              -7 + static_cast<int>(by_column ? t % 3 : static_cast<int64_t>(random.below(3))));
  for (int64_t n = 0; n < weight.rows; ++n) {
    std::vector<uint8_t> codes, widths = weight.widths;
    if (widths.empty()) widths.assign(static_cast<size_t>(dense), static_cast<uint8_t>(weight.format.bits));
    int64_t bits = 0;
    for (uint8_t width : widths) {
      codes.push_back(random_code(random, width, shape.extreme));
      bits += width;
    }
    Bytes packed(static_cast<size_t>(packed_bytes(bits, 1)));
    pack_codes(codes, widths, packed);
    weight.codes.append(packed);
    if (!shape.sparse_part) continue;
    for (int32_t column : some_columns(random, dense, std::min<int64_t>(dense, random.below(4)))) {
      weight.sparse.columns.push_back(column);
      weight.sparse.values.push_back(bf16_to_f32(f32_to_bf16(random.normal())));
    }
    weight.sparse.row_ends.push_back(static_cast<int32_t>(weight.sparse.values.size()));
  }
  if (weight.sparse.empty()) weight.sparse.row_ends.clear();
}

inline LinearWeight random_layer(Random& random, const LayerShape& shape) {
  LinearWeight weight;
  weight.rows = shape.rows;
  weight.columns = shape.columns;
  weight.format = format_of(shape.format);
  weight.activations = format_of(shape.activations);
  weight.sparse24 = shape.sparse24;
  weight.kept_columns = some_columns(random, shape.columns, shape.kept);
  if (weight.format.is_integer()) {
    fill_codes(random, shape, weight);
  } else if (weight.format.is_learned()) {
    fill_learned(random, shape, weight);
  } else {
    fill_values(random, weight);
  }
  if (shape.sparse24) fill_pattern(random, weight);
  for (int64_t i = 0; i < shape.rows * shape.kept; ++i)
    weight.kept.push_back(round_kept(random.normal(), shape.kept_levels));
  weight.kept_levels = shape.kept_levels;
  for (int64_t n = 0; shape.bias && n < shape.rows; ++n) weight.bias.push_back(random.normal());
  return weight;
}

enum class Values { normal, outliers, constant, signs, zeros, hostile };
inline constexpr int kValueKinds = 6;

inline float random_value(Random& random, Values kind) {
  constexpr float kHostile[] = {NAN, INFINITY, -INFINITY, 1e38f, -3e38f, 1e-40f, -0.0f, 0.5f};
  switch (kind) {
    case Values::normal: return random.normal();
    case Values::outliers: return random.normal() * (random.below(16) == 0 ? 100.0f : 1.0f);
    case Values::constant: return 0.75f;
    case Values::signs: return random.below(2) == 0 ? -1.0f : 1.0f;
    case Values::zeros: return 0;
    case Values::hostile: return random.below(4) == 0 ? kHostile[random.below(8)] : random.normal();
  }
  return 0;
}

inline std::vector<float> random_rows(Random& random, int64_t m, int64_t stride, Values kind) {
  std::vector<float> x(static_cast<size_t>(m * stride));
  for (float& value : x) value = random_value(random, kind);
  return x;
}

// A layer whose weights are rounded to a block format as solvers do it.
inline LinearWeight block_layer(Random& random, const LayerShape& shape) {
  LinearWeight weight;
  weight.rows = shape.rows;
  weight.columns = shape.columns;
  weight.format = format_of(shape.format);
  weight.activations = format_of(shape.activations);
  weight.kept_columns = some_columns(random, shape.columns, shape.kept);
  const int64_t dense = weight.dense_columns(), size = weight.format.group_size(dense);
  weight.outer = outer_scale(weight.format, 3);
  const RowSizes sizes = row_sizes(weight.format, dense, false);
  weight.codes.resize(static_cast<size_t>(shape.rows * sizes.codes));
  for (int64_t n = 0; n < shape.rows; ++n) {
    const auto values = random_rows(random, 1, dense, Values::normal);
    std::vector<uint8_t> codes;
    for (int64_t begin = 0; begin < dense; begin += size) {
      const auto block =
          std::span(values).subspan(static_cast<size_t>(begin), static_cast<size_t>(std::min(size, dense - begin)));
      const Grid grid = choose_block_grid(block, weight.format, weight.outer);
      if (sizes.groups > 0) weight.scales.push_back(grid.scale);
      for (float value : block) codes.push_back(static_cast<uint8_t>(grid.encode(value)));
    }
    pack_codes(codes, weight.format.bits,
               std::span(weight.codes).subspan(static_cast<size_t>(n * sizes.codes), static_cast<size_t>(sizes.codes)));
  }
  for (int64_t i = 0; i < shape.rows * shape.kept; ++i)
    weight.kept.push_back(round_kept(random.normal(), weight.kept_levels));
  for (int64_t n = 0; shape.bias && n < shape.rows; ++n) weight.bias.push_back(random.normal());
  return weight;
}

// Equal bits; any NaN equals any NaN.
inline bool same(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

}  // namespace nibble::testing
