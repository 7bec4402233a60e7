#include "quantize/solve/layer.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/half.h"

namespace nibble {

Result<FloatLayer> float_layer(const LinearWeight& weight, std::string name, ThreadPool& pool) {
  FloatLayer layer{std::move(name), weight.rows, weight.columns, {}, weight.bias};
  layer.values.resize(static_cast<size_t>(weight.rows * weight.columns));
  std::atomic<int64_t> wrong{-1};
  pool.run_ranges(weight.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      auto row =
          std::span(layer.values).subspan(static_cast<size_t>(n * weight.columns), static_cast<size_t>(weight.columns));
      decode_row(weight, n, row);
      if (!std::all_of(row.begin(), row.end(), [](float value) { return std::isfinite(value); })) wrong = n;
    }
  });
  if (wrong < 0) return layer;
  const auto at = std::find_if(layer.values.begin(), layer.values.end(), [](float v) { return !std::isfinite(v); });
  const int64_t index = at - layer.values.begin();
  return fail(ErrorCode::failure, "weights of {}: row {}, column {} is {}", layer.name, index / weight.columns,
              index % weight.columns, *at);
}

void rotate(FloatLayer& layer, std::span<const int32_t> kept, int64_t rotation, ThreadPool& pool) {
  if (rotation == 0) return;
  const std::vector<int32_t> dense = dense_columns_of(layer.columns, kept);
  pool.run_ranges(layer.rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> values(dense.size());
    for (int64_t n = begin; n < end; ++n) {
      float* const row = layer.values.data() + n * layer.columns;
      for (size_t i = 0; i < dense.size(); ++i) values[i] = row[dense[i]];
      rotate_dense(values, rotation);
      for (size_t i = 0; i < dense.size(); ++i) row[dense[i]] = values[i];
    }
  });
}

SolvedRow::SolvedRow(const LinearWeight& weight, int64_t n)
    : codes(static_cast<size_t>(weight.dense_columns())),
      grids(weight.format.sharing == Sharing::column ? 0 : static_cast<size_t>(weight.groups())),
      present(weight.sparse24 ? codes.size() : 0),
      kept(weight.kept_columns.size()),
      sparse(weight.sparse.empty() ? 0 : static_cast<size_t>(weight.sparse.end(n) - weight.sparse.begin(n))) {}

double SolvedRow::set_apart(const LinearWeight& weight, int64_t n, int32_t column, double left) {
  if (sparse.empty()) return 0;
  const auto first = weight.sparse.columns.begin() + weight.sparse.begin(n),
             last = weight.sparse.columns.begin() + weight.sparse.end(n);
  const auto at = std::lower_bound(first, last, column);
  if (at == last || *at != column) return 0;
  const float value = bf16_to_f32(f32_to_bf16(static_cast<float>(left)));
  sparse[static_cast<size_t>(at - first)] = value;
  return static_cast<double>(value);
}

LinearWeight empty_layer(const FloatLayer& layer, const LayerForm& form) {
  LinearWeight weight;
  weight.rows = layer.rows;
  weight.columns = layer.columns;
  weight.format = form.weights;
  weight.outer = form.outer;
  weight.activations = form.activations;
  weight.sparse24 = form.sparse24;
  weight.kept_columns = form.kept;
  weight.kept_levels = form.kept_levels;
  weight.rotation = form.rotation;
  weight.bias = layer.bias;
  weight.widths = form.widths;
  const MixedSizes mixed = MixedSizes::of(form.widths);
  const RowSizes row = row_sizes(form.weights, weight.dense_columns(), form.sparse24, mixed.code_bits);
  const bool mixed_tables = !form.widths.empty() && form.weights.is_learned();
  weight.levels.assign(
      static_cast<size_t>(mixed_tables ? mixed.levels : form.weights.table_levels(layer.rows, weight.dense_columns())),
      0.0f);
  if (form.weights.is_learned())
    weight.exponents.resize(mixed_tables ? form.widths.size()
                                         : weight.levels.size() / static_cast<size_t>(form.weights.levels_count()));
  weight.codes.resize(static_cast<size_t>(layer.rows * row.codes));
  weight.pattern.resize(static_cast<size_t>(layer.rows * row.pattern));
  weight.scales.assign(static_cast<size_t>(layer.rows * row.groups), 1.0f);
  weight.offsets.resize(static_cast<size_t>(layer.rows * row.offsets));
  weight.kept.resize(static_cast<size_t>(layer.rows) * form.kept.size());
  return weight;
}

namespace {

template <class Values>
auto row_of(Values& all, int64_t n, int64_t rows) {
  const size_t size = all.size() / static_cast<size_t>(rows);
  return std::span(all).subspan(static_cast<size_t>(n) * size, size);
}

std::vector<uint8_t> present_codes(const SolvedRow& row) {
  std::vector<uint8_t> codes;
  codes.reserve(row.codes.size() / 2);
  for (size_t k = 0; k < row.codes.size(); ++k)
    if (row.present[k]) codes.push_back(row.codes[k]);
  return codes;
}

void store_pattern(const SolvedRow& row, std::span<std::byte> out) {
  for (size_t quad = 0; quad < row.present.size() / 4; ++quad) {
    unsigned nibble = 0, shift = 0;
    for (unsigned k = 0; k < 4; ++k)
      if (row.present[quad * 4 + k]) {
        nibble |= k << shift;
        shift += 2;
      }
    out[quad / 2] |= static_cast<std::byte>(nibble << quad % 2 * 4);
  }
}

}  // namespace

void store_row(LinearWeight& weight, int64_t n, const SolvedRow& row) {
  const auto codes = row_of(weight.codes, n, weight.rows);
  if (weight.sparse24) {
    pack_codes(present_codes(row), weight.format.bits, codes);
    store_pattern(row, row_of(weight.pattern, n, weight.rows));
  } else if (!weight.widths.empty()) {
    pack_codes(row.codes, weight.widths, codes);
  } else {
    pack_codes(row.codes, weight.format.bits, codes);
  }
  for (size_t g = 0; g < row.grids.size() && weight.format.scale != ScaleCodec::none; ++g) {
    const size_t at = static_cast<size_t>(n) * row.grids.size() + g;
    weight.scales[at] = row.grids[g].scale;
    if (weight.format.offset) weight.offsets[at] = static_cast<uint8_t>(row.grids[g].offset);
  }
  if (!row.sparse.empty())
    std::copy(row.sparse.begin(), row.sparse.end(), weight.sparse.values.begin() + weight.sparse.begin(n));
  for (size_t i = 0; i < row.kept.size(); ++i)
    weight.kept[static_cast<size_t>(n) * row.kept.size() + i] = round_kept(row.kept[i], weight.kept_levels);
}

Status check_kept(const LinearWeight& weight, std::string_view name) {
  for (size_t i = 0; i < weight.kept.size(); ++i)
    if (!std::isfinite(kept_value(weight.kept[i], weight.kept_levels)))
      return fail(ErrorCode::failure, "{}: a kept weight of row {}, column {} does not fit a 16-bit float", name,
                  i / weight.kept_columns.size(), weight.kept_columns[i % weight.kept_columns.size()]);
  return {};
}

void choose_two_of_four(std::span<const double, 4> worth, std::span<uint8_t, 4> present) {
  for (size_t k = 0; k < 4; ++k) {
    int better = 0;
    for (size_t other = 0; other < 4; ++other)
      better += worth[other] > worth[k] || (worth[other] == worth[k] && other > k);
    present[k] = better < 2;
  }
}

}  // namespace nibble
