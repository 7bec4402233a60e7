#include "quantize/solve/round.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace nibble {
namespace {

std::vector<float> gather(std::span<const float> row, std::span<const int32_t> columns) {
  std::vector<float> out(columns.size());
  for (size_t i = 0; i < columns.size(); ++i) out[i] = row[static_cast<size_t>(columns[i])];
  return out;
}

// Drops the smaller half of every four: their codes are not stored.
void prune_by_magnitude(std::span<const float> dense, SolvedRow& row) {
  for (size_t k = 0; k + 4 <= dense.size(); k += 4) {
    std::array<double, 4> worth;
    for (size_t i = 0; i < 4; ++i) worth[i] = std::fabs(static_cast<double>(dense[k + i]));
    choose_two_of_four(worth, std::span(row.present).subspan(k).first<4>());
  }
}

void round_row(LinearWeight& weight, int64_t n, std::span<const float> dense, std::span<const float> kept,
               std::vector<Grid> grids) {
  SolvedRow row(weight);
  row.grids = std::move(grids);
  const auto size = static_cast<size_t>(weight.format.group_size(weight.dense_columns()));
  for (size_t k = 0; k < dense.size(); ++k) row.codes[k] = static_cast<uint8_t>(row.grids[k / size].encode(dense[k]));
  if (weight.sparse24) prune_by_magnitude(dense, row);
  std::copy(kept.begin(), kept.end(), row.kept.begin());
  store_row(weight, n, row);
}

template <class GridsOf>
LinearWeight round_rows(const FloatLayer& layer, const LayerForm& form, ThreadPool& pool, const GridsOf& grids_of) {
  LinearWeight weight = empty_layer(layer, form);
  const std::vector<int32_t> columns = dense_columns_of(layer.columns, form.kept);
  pool.run_ranges(layer.rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const std::vector<float> dense = gather(layer.row(n), columns);
      round_row(weight, n, dense, gather(layer.row(n), form.kept), grids_of(n, dense));
    }
  });
  return weight;
}

}  // namespace

std::vector<Grid> choose_grids(std::span<const float> dense, const NumberFormat& format, const Clip& clip,
                               float outer) {
  const auto columns = static_cast<int64_t>(dense.size()), size = format.group_size(columns);
  std::vector<Grid> grids;
  for (int64_t begin = 0; begin < columns; begin += size) {
    const auto count = static_cast<size_t>(std::min(size, columns - begin));
    grids.push_back(choose_grid(dense.subspan(static_cast<size_t>(begin), count), format, clip, outer));
  }
  return grids;
}

Result<LinearWeight> round_to_nearest(const FloatLayer& layer, const LayerForm& form, const Clip& clip,
                                      ThreadPool& pool) {
  LinearWeight weight = round_rows(layer, form, pool, [&](int64_t, std::span<const float> dense) {
    return choose_grids(dense, form.weights, clip, form.outer);
  });
  NIBBLE_DO(check_kept(weight, layer.name));
  return weight;
}

LinearWeight round_on_grids_of(const LinearWeight& solved, const FloatLayer& layer, ThreadPool& pool) {
  const LayerForm form{solved.format,      solved.activations, solved.kept_columns, solved.sparse24,
                       solved.kept_levels, solved.outer,       solved.rotation,     solved.widths};
  LinearWeight out = round_rows(layer, form, pool, [&](int64_t n, std::span<const float>) { return solved.grids(n); });
  out.levels = solved.levels;
  out.sparse = solved.sparse;
  return out;
}

}  // namespace nibble
