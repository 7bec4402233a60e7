#include "format/linear_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/checked.h"
#include "core/hadamard.h"
#include "core/half.h"

namespace nibble {
namespace {

int64_t value_bytes(const NumberFormat& format) { return format.bits / 8; }

int64_t stored_columns(const LinearWeight& weight) {
  return weight.sparse24 ? weight.dense_columns() / 2 : weight.dense_columns();
}

RowSizes sizes_of(const LinearWeight& weight) {
  return row_sizes(weight.format, weight.dense_columns(), weight.sparse24, MixedSizes::of(weight.widths).code_bits);
}

int64_t levels_of_column(int bits) { return bits > kTableBits ? 0 : int64_t{1} << bits; }

int64_t code_row_bytes(const LinearWeight& weight) { return sizes_of(weight).codes; }
int64_t pattern_row_bytes(const LinearWeight& weight) { return sizes_of(weight).pattern; }

std::span<const std::byte> row_of(std::span<const std::byte> bytes, int64_t n, int64_t row_bytes) {
  return bytes.subspan(static_cast<size_t>(n * row_bytes), static_cast<size_t>(row_bytes));
}

float load_value(const std::byte* at, Levels levels) {
  if (levels == Levels::f32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return levels == Levels::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

// Spreads the present codes of a 2:4 row over its dense columns; the gaps hold the code of zero.
void spread24(const LinearWeight& weight, int64_t n, std::span<uint8_t> out) {
  std::vector<uint8_t> present(static_cast<size_t>(stored_columns(weight)));
  unpack_codes(row_of(weight.codes, n, code_row_bytes(weight)), weight.format.bits, present);
  auto pattern = row_of(weight.pattern, n, pattern_row_bytes(weight));
  const int64_t size = weight.format.group_size(weight.dense_columns());
  for (size_t k = 0; k < out.size(); ++k)
    out[k] = static_cast<uint8_t>(weight.grid(n, static_cast<int64_t>(k) / size).zero());
  for (size_t quad = 0; quad < out.size() / 4; ++quad) {
    unsigned nibble = std::to_integer<unsigned>(pattern[quad / 2]) >> (quad % 2 * 4) & 15u;
    out[quad * 4 + (nibble & 3u)] = present[quad * 2];
    out[quad * 4 + (nibble >> 2)] = present[quad * 2 + 1];
  }
}

Status validate_kept(const LinearWeight& weight, std::string_view name) {
  int32_t previous = -1;
  for (int32_t column : weight.kept_columns) {
    if (column <= previous || column >= weight.columns)
      return fail(ErrorCode::corrupt, "{}: kept column {} is out of order or not below {}", name, column,
                  weight.columns);
    previous = column;
  }
  return {};
}

// `found` entries in `rows` rows of `each`; a product that does not fit is no size that anything has.
Status expect_size(std::string_view name, std::string_view what, size_t found, int64_t rows, int64_t each) {
  const auto expected = checked_mul(rows, each);
  if (expected && static_cast<int64_t>(found) == *expected) return {};
  return fail(ErrorCode::corrupt, "{}: {} has {} entries, expected {}", name, what, found,
              expected ? fmt::format("{}", *expected) : fmt::format("{} x {}", rows, each));
}

// Column numbers are 32 bits wide; within these limits the bytes of a row are no large number either.
Status validate_shape(const LinearWeight& weight, std::string_view name) {
  for (int64_t extent : {weight.rows, weight.columns})
    if (extent < 0 || extent > INT32_MAX)
      return fail(ErrorCode::corrupt, "{}: {} x {} is no shape of a layer", name, weight.rows, weight.columns);
  return {};
}

Status validate_pattern(const LinearWeight& weight, std::string_view name) {
  if (weight.dense_columns() % 4 != 0)
    return fail(ErrorCode::corrupt, "{}: a 2:4 pattern over {} dense columns, which 4 does not divide", name,
                weight.dense_columns());
  for (int64_t n = 0; n < weight.rows; ++n) {
    auto row = row_of(weight.pattern, n, pattern_row_bytes(weight));
    for (int64_t quad = 0; quad < weight.dense_columns() / 4; ++quad) {
      unsigned nibble = std::to_integer<unsigned>(row[static_cast<size_t>(quad / 2)]) >> (quad % 2 * 4) & 15u;
      if ((nibble & 3u) >= nibble >> 2)
        return fail(ErrorCode::corrupt, "{}: 2:4 pattern {} in row {}, group {} does not ascend", name, nibble, n,
                    quad);
    }
  }
  return {};
}

Status validate_offsets(const LinearWeight& weight, std::string_view name) {
  if (weight.offsets.empty()) return {};
  std::vector<int32_t> most;  // by group
  for (int64_t g = 0; g < weight.groups(); ++g) most.push_back(most_offset(weight.group_bits(g)));
  for (size_t i = 0, g = 0; i < weight.offsets.size(); ++i, g = g + 1 < most.size() ? g + 1 : 0)
    if (weight.offsets[i] > most[g])
      return fail(ErrorCode::corrupt, "{}: offset {} is {}, expected less than {}", name, i, weight.offsets[i],
                  most[g] + 1);
  return {};
}

// Scales are positive and no value overflows; codes of one byte are numbers.
Status validate_block_values(const LinearWeight& weight, std::string_view name) {
  const NumberFormat& format = weight.format;
  if (!std::isfinite(weight.outer) || !(weight.outer > 0))
    return fail(ErrorCode::corrupt, "{}: the outer scale is {}", name, weight.outer);
  float most = format.scale == ScaleCodec::none ? std::ldexp(1.0f, -format.fraction) : 0.0f;
  for (size_t i = 0; i < weight.scales.size(); ++i) {
    if (!(weight.scales[i] > 0)) return fail(ErrorCode::corrupt, "{}: scale {} is {}", name, i, weight.scales[i]);
    most = std::max(most, weight.scales[i]);
  }
  const bool integers = format.levels == Levels::integer;
  const float greatest = integers ? std::ldexp(1.0f, format.bits - 1) : Element::of(format).greatest();
  if (!std::isfinite(weight.outer * (most * greatest)))
    return fail(ErrorCode::corrupt, "{}: a scale of {} takes the greatest code out of range", name, most);
  if (integers || format.bits != 8) return {};
  const Element& element = Element::of(format);
  for (std::byte code : weight.codes)
    if (!std::isfinite(element.level(std::to_integer<int32_t>(code))))
      return fail(ErrorCode::corrupt, "{}: the code {:#04x} is no number in {}", name, std::to_integer<int>(code),
                  to_string(format));
  return {};
}

Status validate_widths(const LinearWeight& weight, std::string_view name) {
  NIBBLE_DO(expect_size(name, "widths", weight.widths.size(), weight.format.bits == 0 ? weight.dense_columns() : 0, 1));
  for (size_t k = 0; k < weight.widths.size(); ++k)
    if (weight.widths[k] < 1 || weight.widths[k] > 8)
      return fail(ErrorCode::corrupt, "{}: column {} has {} bits, expected 1 to 8", name, k, weight.widths[k]);
  const auto size = static_cast<size_t>(weight.format.group_size(weight.dense_columns()));
  for (size_t k = 0; k < weight.widths.size(); ++k)
    if (weight.widths[k] != weight.widths[k / size * size])
      return fail(ErrorCode::corrupt, "{}: column {} has {} bits in a group of {}", name, k, weight.widths[k],
                  weight.widths[k / size * size]);
  return {};
}

// visit(exponent, begin, end) for each table: where its numbers are in `levels`.
template <class Visit>
void for_tables(const LinearWeight& weight, const Visit& visit) {
  int64_t begin = 0;
  for (size_t t = 0; t < weight.exponents.size(); ++t) {
    const int64_t count = levels_of_column(weight.format.bits == 0 ? weight.widths[t] : weight.format.bits);
    visit(weight.exponents[t], begin, begin + count);
    begin += count;
  }
}

// Tables ascend and hold integers of 8 bits times the power of two that is theirs.
Status validate_levels(const LinearWeight& weight, std::string_view name) {
  const NumberFormat& format = weight.format;
  const bool learned = format.is_learned(), mixed = learned && format.bits == 0;
  const int64_t expected = !learned ? 0
                           : mixed  ? MixedSizes::of(weight.widths).levels
                                    : format.table_levels(weight.rows, weight.dense_columns());
  const int64_t tables = mixed ? weight.dense_columns() : learned ? expected / format.levels_count() : 0;
  NIBBLE_DO(expect_size(name, "levels", weight.levels.size(), expected, 1));
  NIBBLE_DO(expect_size(name, "exponents", weight.exponents.size(), tables, 1));
  const float* level = weight.levels.data();
  for (int64_t t = 0; t < tables; ++t) {
    const int exponent = weight.exponents[static_cast<size_t>(t)];
    if (exponent < kLeastExponent || exponent > kMostExponent)
      return fail(ErrorCode::corrupt, "{}: the exponent of table {} is {}, expected {} to {}", name, t, exponent,
                  kLeastExponent, kMostExponent);
    const float inverse = std::ldexp(1.0f, -exponent);
    const int64_t count = levels_of_column(mixed ? weight.widths[static_cast<size_t>(t)] : format.bits);
    for (int64_t i = 0; i < count; ++i) {
      const float integer = level[i] * inverse;
      const bool good = std::fabs(integer) <= kGreatestLevel && integer == std::nearbyint(integer);
      if (!good || (i > 0 && level[i] < level[i - 1]))
        return fail(ErrorCode::corrupt, "{}: level {} of table {} is {}; expected ascending integers of -{} to {}",
                    name, i, t, integer, kGreatestLevel, kGreatestLevel);
    }
    level += count;
  }
  return {};
}

Status validate_sparse(const LinearWeight& weight, std::string_view name) {
  const SparseWeights& sparse = weight.sparse;
  const auto count = static_cast<int64_t>(sparse.values.size());
  NIBBLE_DO(expect_size(name, "sparse rows", sparse.row_ends.size(), sparse.empty() ? 0 : weight.rows, 1));
  NIBBLE_DO(expect_size(name, "sparse columns", sparse.columns.size(), count, 1));
  if (sparse.empty()) return {};
  if (!weight.format.is_learned())
    return fail(ErrorCode::corrupt, "{}: a sparse part beside {}; expected learned levels", name,
                to_string(weight.format));
  if (sparse.row_ends.empty() || sparse.row_ends.back() != count)
    return fail(ErrorCode::corrupt, "{}: the sparse rows hold {} weights, not {}", name,
                sparse.row_ends.empty() ? 0 : sparse.row_ends.back(), count);
  for (int64_t n = 0; n < weight.rows; ++n) {
    if (sparse.begin(n) > sparse.end(n) || sparse.end(n) > count)
      return fail(ErrorCode::corrupt, "{}: sparse row {} is from {} to {} of {}", name, n, sparse.begin(n),
                  sparse.end(n), count);
    int32_t previous = -1;
    for (int64_t i = sparse.begin(n); i < sparse.end(n); ++i) {
      const int32_t column = sparse.columns[static_cast<size_t>(i)];
      if (column <= previous || column >= weight.dense_columns())
        return fail(ErrorCode::corrupt, "{}: sparse column {} of row {} is out of order or not below {}", name, column,
                    n, weight.dense_columns());
      previous = column;
    }
  }
  for (size_t i = 0; i < sparse.values.size(); ++i)
    if (!std::isfinite(sparse.values[i]))
      return fail(ErrorCode::corrupt, "{}: sparse weight {} is {}", name, i, sparse.values[i]);
  return {};
}

}  // namespace

MixedSizes MixedSizes::of(std::span<const uint8_t> widths) {
  MixedSizes sizes;
  for (uint8_t bits : widths) {
    sizes.code_bits += bits;
    sizes.levels += levels_of_column(bits);
  }
  return sizes;
}

std::vector<int8_t> integers_of_levels(const LinearWeight& weight) {
  std::vector<int8_t> out;
  out.reserve(weight.levels.size());
  for_tables(weight, [&](int exponent, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      out.push_back(static_cast<int8_t>(std::ldexp(weight.levels[static_cast<size_t>(i)], -exponent)));
  });
  return out;
}

std::vector<float> levels_of_integers(const LinearWeight& weight, std::span<const int8_t> integers) {
  std::vector<float> out;
  out.reserve(integers.size());
  for_tables(weight, [&](int exponent, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < std::min(end, static_cast<int64_t>(integers.size())); ++i)
      out.push_back(std::ldexp(static_cast<float>(integers[static_cast<size_t>(i)]), exponent));
  });
  return out;
}

RowSizes row_sizes(const NumberFormat& format, int64_t dense_columns, bool sparse24, int64_t code_bits) {
  RowSizes sizes;
  sizes.codes = format.bits == 0 ? packed_bytes(code_bits, 1)
                                 : packed_bytes(sparse24 ? dense_columns / 2 : dense_columns, format.bits);
  sizes.pattern = sparse24 ? ceil_div(dense_columns / 4, 2) : 0;
  sizes.groups = format.scale == ScaleCodec::none || format.is_profiled() ? 0 : format.groups(dense_columns);
  sizes.offsets = format.offset ? sizes.groups : 0;
  sizes.scale_bytes = scale_bytes(format.scale);
  return sizes;
}

int64_t LinearWeight::matrix_bytes() const {
  const auto sparse_bytes = static_cast<int64_t>(4 * sparse.row_ends.size()) +
                            (2 + sparse_column_bytes(dense_columns())) * static_cast<int64_t>(sparse.values.size());
  return static_cast<int64_t>(codes.size() + pattern.size() + offsets.size() + levels.size() + exponents.size() +
                              2 * kept.size() + 4 * kept_columns.size()) +
         width_bytes(format, dense_columns()) + sparse_bytes + (format.outer ? 4 : 0) +
         sizes_of(*this).scale_bytes * static_cast<int64_t>(scales.size());
}

int64_t width_bytes(const NumberFormat& format, int64_t dense_columns) {
  return format.bits == 0 ? format.groups(dense_columns) : 0;
}

Grid LinearWeight::grid(int64_t n, int64_t g) const {
  if (format.bits == 0 && format.is_learned()) return grids(n)[static_cast<size_t>(g)];
  if (format.is_learned()) {
    const int64_t table = format.sharing == Sharing::column ? g : n * groups() + g;
    return Grid::of_table(levels.data() + table * format.levels_count(), format.bits);
  }
  if (format.scale == ScaleCodec::none) return block_grid(format, 1, outer);
  const auto at = static_cast<size_t>(n * groups() + g);
  if (format.is_block()) return block_grid(format, scales[at], outer);
  const int bits = group_bits(g);
  return Grid::make(scales[at], format.offset ? offsets[at] : middle_offset(bits), bits);
}

std::vector<Grid> LinearWeight::grids(int64_t n) const {
  std::vector<Grid> out;
  if (format.bits != 0 || !format.is_learned()) {
    for (int64_t g = 0; g < groups(); ++g) out.push_back(grid(n, g));
    return out;
  }
  const float* level = levels.data();
  for (size_t k = 0; k < widths.size(); ++k) {
    const int bits = widths[k];
    out.push_back(bits > kTableBits ? Grid::without_table(exponents[k], bits) : Grid::of_table(level, bits));
    level += levels_of_column(bits);
  }
  return out;
}

Status LinearWeight::validate(std::string_view name) const {
  NIBBLE_DO(validate_shape(*this, name));
  NIBBLE_DO(validate_kept(*this, name));
  if (!is_rotation(rotation) || rotation > columns)
    return fail(ErrorCode::corrupt, "{}: blocks of {} are no rotation of {} columns; expected a power of two", name,
                rotation, columns);
  if (sparse24 && !format.has_codes()) return fail(ErrorCode::corrupt, "{}: a 2:4 pattern needs codes", name);
  if (sparse24 && (format.is_learned() || format.bits == 0))
    return fail(ErrorCode::corrupt, "{}: a 2:4 pattern in {}; learned levels and open bits have none", name,
                to_string(format));
  NIBBLE_DO(validate_widths(*this, name));
  const RowSizes row = format.has_codes() ? sizes_of(*this) : RowSizes{dense_columns() * value_bytes(format)};
  NIBBLE_DO(expect_size(name, "codes", codes.size(), rows, row.codes));
  NIBBLE_DO(expect_size(name, "pattern", pattern.size(), rows, row.pattern));
  NIBBLE_DO(expect_size(name, "scales", scales.size(), rows, row.groups));
  NIBBLE_DO(expect_size(name, "offsets", offsets.size(), rows, row.offsets));
  NIBBLE_DO(validate_levels(*this, name));
  NIBBLE_DO(validate_sparse(*this, name));
  NIBBLE_DO(expect_size(name, "kept", kept.size(), rows, kept_count()));
  NIBBLE_DO(expect_size(name, "bias", bias.size(), rows, bias.empty() ? 0 : 1));
  for (size_t i = 0; i < scales.size(); ++i)
    if (!std::isfinite(scales[i]) || scales[i] == 0)
      return fail(ErrorCode::corrupt, "{}: scale {} is {}", name, i, scales[i]);
  if (format.is_block()) NIBBLE_DO(validate_block_values(*this, name));
  NIBBLE_DO(validate_offsets(*this, name));
  return sparse24 ? validate_pattern(*this, name) : Status();
}

std::vector<int32_t> dense_columns_of(int64_t columns, std::span<const int32_t> kept) {
  std::vector<int32_t> dense;
  dense.reserve(static_cast<size_t>(columns) - kept.size());
  size_t next = 0;
  for (int32_t column = 0; column < columns; ++column) {
    if (next < kept.size() && kept[next] == column) {
      ++next;
    } else {
      dense.push_back(column);
    }
  }
  return dense;
}

LinearWeight float_linear(int64_t rows, int64_t columns, Levels levels, CodeBytes values, std::vector<float> bias) {
  LinearWeight weight;
  weight.rows = rows;
  weight.columns = columns;
  weight.format.levels = levels;
  weight.format.bits = levels == Levels::f32 ? 32 : 16;
  weight.codes = std::move(values);
  weight.bias = std::move(bias);
  return weight;
}

std::optional<float> write_floats(std::span<const float> values, Levels levels, std::byte* out) {
  std::optional<float> misfit;
  for (float value : values) {
    float written = value;
    if (levels == Levels::f32) {
      std::memcpy(out, &value, sizeof value);
      out += sizeof value;
    } else {
      const uint16_t half = levels == Levels::f16 ? f32_to_f16(value) : f32_to_bf16(value);
      written = levels == Levels::f16 ? f16_to_f32(half) : bf16_to_f32(half);
      std::memcpy(out, &half, sizeof half);
      out += sizeof half;
    }
    if (!std::isfinite(written) && !misfit) misfit = value;
  }
  return misfit;
}

void decode_codes(const LinearWeight& weight, int64_t n, std::span<uint8_t> out) {
  if (weight.sparse24) return spread24(weight, n, out);
  if (!weight.widths.empty())
    return unpack_codes(row_of(weight.codes, n, static_cast<int64_t>(weight.codes.size()) / weight.rows), weight.widths,
                        out);
  unpack_codes(row_of(weight.codes, n, code_row_bytes(weight)), weight.format.bits, out);
}

uint16_t round_kept(float value, Levels levels) {
  return levels == Levels::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
}

float kept_value(uint16_t bits, Levels levels) { return levels == Levels::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits); }

namespace {

// The dense values of a row of floats; an embedding is read so for every token, so nothing is allocated.
void decode_floats(const LinearWeight& weight, int64_t n, std::span<float> out) {
  const int64_t dense = weight.dense_columns(), bytes = value_bytes(weight.format);
  const auto row = row_of(weight.codes, n, dense * bytes);
  for (int64_t k = 0; k < dense; ++k)
    out[static_cast<size_t>(k)] = load_value(row.data() + k * bytes, weight.format.levels);
}

void decode_grids(const LinearWeight& weight, int64_t n, float outer, std::span<float> out) {
  std::vector<uint8_t> codes(out.size());
  decode_codes(weight, n, codes);
  const auto size = static_cast<size_t>(std::max<int64_t>(1, weight.format.group_size(weight.dense_columns())));
  const std::vector<Grid> columns = weight.widths.empty() ? std::vector<Grid>() : weight.grids(n);
  for (size_t begin = 0; begin < out.size(); begin += size) {
    Grid grid = columns.empty() ? weight.grid(n, static_cast<int64_t>(begin / size)) : columns[begin / size];
    grid.outer = outer;
    for (size_t k = begin; k < std::min(out.size(), begin + size); ++k) out[k] = grid.decode(codes[k]);
  }
}

}  // namespace

void decode_dense(const LinearWeight& weight, int64_t n, std::span<float> out) {
  if (weight.format.is_float()) return decode_floats(weight, n, out);
  decode_grids(weight, n, 1, out);
}

namespace {

// A row in original column order; the dense values are rotated first where `rotation` is not 0.
void decode_all(const LinearWeight& weight, int64_t n, int64_t rotation, std::span<float> out) {
  if (weight.format.is_float() && weight.kept_columns.empty() && rotation == 0) return decode_floats(weight, n, out);
  std::vector<float> values(static_cast<size_t>(weight.dense_columns()));
  if (weight.format.is_float()) {
    decode_floats(weight, n, values);
  } else {
    decode_grids(weight, n, weight.outer, values);
  }
  if (!weight.sparse.empty())
    for (auto i = static_cast<size_t>(weight.sparse.begin(n)); i < static_cast<size_t>(weight.sparse.end(n)); ++i)
      values[static_cast<size_t>(weight.sparse.columns[i])] += weight.sparse.values[i];
  if (rotation != 0) rotate_dense(values, rotation);
  size_t from_dense = 0, from_kept = 0;
  for (int64_t k = 0; k < weight.columns; ++k) {
    bool kept = from_kept < weight.kept_columns.size() && weight.kept_columns[from_kept] == k;
    const auto at = static_cast<size_t>(n * weight.kept_count()) + from_kept;
    out[static_cast<size_t>(k)] = kept ? kept_value(weight.kept[at], weight.kept_levels) : values[from_dense];
    ++(kept ? from_kept : from_dense);
  }
}

}  // namespace

void decode_stored(const LinearWeight& weight, int64_t n, std::span<float> out) { decode_all(weight, n, 0, out); }

void decode_row(const LinearWeight& weight, int64_t n, std::span<float> out) {
  decode_all(weight, n, weight.rotation, out);
}

void rotate_dense(std::span<float> values, int64_t rotation) {
  std::vector<double> wide(values.begin(), values.end());
  rotate(wide.data(), static_cast<int64_t>(wide.size()), rotation);
  std::transform(wide.begin(), wide.end(), values.begin(), [](double value) { return static_cast<float>(value); });
}

namespace {

// `bits_of(i)`: of code i.
void pack(std::span<const uint8_t> codes, auto bits_of, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
  size_t position = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    unsigned shifted = static_cast<unsigned>(codes[i]) << position % 8;
    out[position / 8] |= static_cast<std::byte>(shifted & 255u);
    if (shifted > 255u) out[position / 8 + 1] |= static_cast<std::byte>(shifted >> 8);
    position += static_cast<size_t>(bits_of(i));
  }
}

void unpack(std::span<const std::byte> packed, auto bits_of, std::span<uint8_t> out) {
  size_t position = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const auto bits = static_cast<size_t>(bits_of(i));
    unsigned window = std::to_integer<unsigned>(packed[position / 8]);
    if (position % 8 + bits > 8) window |= std::to_integer<unsigned>(packed[position / 8 + 1]) << 8;
    out[i] = static_cast<uint8_t>(window >> position % 8 & ((1u << bits) - 1));
    position += bits;
  }
}

}  // namespace

void pack_codes(std::span<const uint8_t> codes, int bits, std::span<std::byte> out) {
  pack(
      codes, [bits](size_t) { return bits; }, out);
}

void unpack_codes(std::span<const std::byte> packed, int bits, std::span<uint8_t> out) {
  unpack(
      packed, [bits](size_t) { return bits; }, out);
}

void pack_codes(std::span<const uint8_t> codes, std::span<const uint8_t> widths, std::span<std::byte> out) {
  pack(
      codes, [widths](size_t i) { return widths[i]; }, out);
}

void unpack_codes(std::span<const std::byte> packed, std::span<const uint8_t> widths, std::span<uint8_t> out) {
  unpack(
      packed, [widths](size_t i) { return widths[i]; }, out);
}

float round_scale(float scale, ScaleCodec codec) {
  return codec == ScaleCodec::f16 ? f16_to_f32(f32_to_f16(scale)) : scale;
}

namespace {

const Element& e4m3() {
  static const NumberFormat format = *parse_format("fp8e4m3");
  return Element::of(format);
}

}  // namespace

uint8_t scale_byte(float scale, ScaleCodec codec) {
  if (codec == ScaleCodec::e4m3) return static_cast<uint8_t>(e4m3().encode(scale));
  return static_cast<uint8_t>(std::ilogb(scale) + 127);
}

float scale_of_byte(uint8_t byte, ScaleCodec codec) {
  constexpr uint8_t kMost = 126;  // 448; beyond it NaN and the negative ones
  if (codec == ScaleCodec::e4m3) return byte > kMost ? std::numeric_limits<float>::quiet_NaN() : e4m3().level(byte);
  return byte == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, byte - 127);
}

}  // namespace nibble
