#include "quantize/solve/round.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quantize/solve/levels.h"

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
               std::span<const Grid> grids) {
  SolvedRow row(weight, n);
  if (!weight.format.is_learned()) row.grids.assign(grids.begin(), grids.end());
  const auto size = static_cast<size_t>(weight.format.group_size(weight.dense_columns()));
  for (size_t k = 0; k < dense.size(); ++k) {
    const Grid& grid = grids[k / size];
    row.codes[k] = static_cast<uint8_t>(grid.encode(dense[k]));
    row.set_apart(weight, n, static_cast<int32_t>(k), static_cast<double>(dense[k] - grid.decode(row.codes[k])));
  }
  if (weight.sparse24) prune_by_magnitude(dense, row);
  std::copy(kept.begin(), kept.end(), row.kept.begin());
  store_row(weight, n, row);
}

// `weight` begun, its rows to be filled. Learned levels bring their grids along, for others grids_of() gives them.
template <class GridsOf>
void round_rows(const FloatLayer& layer, LinearWeight& weight, ThreadPool& pool, const GridsOf& grids_of) {
  const std::vector<int32_t> columns = dense_columns_of(layer.columns, weight.kept_columns);
  const bool learned = weight.format.is_learned(), by_column = weight.format.sharing == Sharing::column;
  const std::vector<Grid> of_all_rows = by_column ? weight.grids(0) : std::vector<Grid>();
  pool.run_ranges(layer.rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const std::vector<float> dense = gather(layer.row(n), columns), kept = gather(layer.row(n), weight.kept_columns);
      if (by_column) {
        round_row(weight, n, dense, kept, of_all_rows);
      } else {
        round_row(weight, n, dense, kept, learned ? weight.grids(n) : grids_of(n, dense));
      }
    }
  });
}

}  // namespace

std::vector<Grid> choose_grids(std::span<const float> dense, const LayerForm& form, const Clip& clip,
                               std::span<const float> salience) {
  const auto columns = static_cast<int64_t>(dense.size()), size = form.weights.group_size(columns);
  std::vector<Grid> grids;
  for (int64_t begin = 0; begin < columns; begin += size) {
    const auto at = static_cast<size_t>(begin), count = static_cast<size_t>(std::min(size, columns - begin));
    const NumberFormat format = form.widths.empty() ? form.weights : form.weights.with_bits(form.widths[at]);
    grids.push_back(choose_grid(dense.subspan(at, count), format, clip, form.outer,
                                salience.empty() ? salience : salience.subspan(at, count)));
  }
  return grids;
}

Result<LinearWeight> round_to_nearest(const FloatLayer& layer, const LayerForm& form, const Clip& clip,
                                      ThreadPool& pool) {
  LinearWeight weight = begin_layer(layer, form, pool);
  round_rows(layer, weight, pool,
             [&](int64_t, std::span<const float> dense) { return choose_grids(dense, form, clip); });
  NIBBLE_DO(check_kept(weight, layer.name));
  return weight;
}

LinearWeight round_on_grids_of(const LinearWeight& solved, const FloatLayer& layer, ThreadPool& pool) {
  LayerForm form{solved.format,      solved.activations, solved.kept_columns, solved.sparse24,
                 solved.kept_levels, solved.outer,       solved.rotation,     solved.widths};
  form.learned = {solved.levels, solved.exponents};
  form.sparse = solved.sparse;
  LinearWeight weight = begin_layer(layer, form, pool);
  round_rows(layer, weight, pool, [&](int64_t n, std::span<const float>) { return solved.grids(n); });
  return weight;
}

}  // namespace nibble
