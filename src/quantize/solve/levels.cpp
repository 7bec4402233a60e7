#include "quantize/solve/levels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "core/half.h"
#include "quantize/solve/kmeans.h"

namespace nibble {
namespace {

constexpr int64_t kColumnsAtATime = 16;  // neighbours in a row: a line of memory holds their weights
constexpr int kScales = 21;

// The scale of a column's integers.
float column_scale(std::span<const float> values, std::span<const float> weights, int bits) {
  float most = 0;
  for (size_t i = 0; i < values.size(); ++i)
    if (weights.empty() || weights[i] > 0) most = std::max(most, std::fabs(values[i]));
  const float whole = std::max(most, kSmallestRange) / static_cast<float>((1 << (bits - 1)) - 1);
  double least = std::numeric_limits<double>::infinity();
  float best = 0;
  for (int step = 0; step < kScales; ++step) {
    const float scale = bf16_to_f32(f32_to_bf16(whole * (1 - 0.01f * static_cast<float>(step))));
    const Grid grid = Grid::in_halves(scale, bits);
    double cost = 0;
    for (size_t i = 0; i < values.size() && cost < least; ++i) {
      const auto error = static_cast<double>(grid.round(values[i]) - values[i]);
      cost += (weights.empty() ? 1 : static_cast<double>(weights[i])) * error * error;
    }
    if (cost >= least) continue;
    least = cost;
    best = scale;
  }
  return best;
}

// What is needed of a layer to cut runs out of it.
class Runs {
 public:
  Runs(const FloatLayer& layer, const LayerForm& form, const Importance& importance)
      : layer_(layer), form_(form), importance_(importance), dense_(dense_columns_of(layer.columns, form.kept)) {}

  bool weighted() const { return !importance_.equal() || !form_.sparse.row_ends.empty(); }
  int64_t dense() const { return static_cast<int64_t>(dense_.size()); }

  // Row n. values, weights: I; weights only where weighted().
  void row(int64_t n, std::span<float> values, std::span<float> weights) const {
    const auto row = layer_.row(n);
    for (size_t i = 0; i < dense_.size(); ++i) values[i] = row[static_cast<size_t>(dense_[i])];
    if (!weighted()) return;
    importance_.row(n, dense_, weights);
    if (form_.sparse.row_ends.empty()) return;
    for (int64_t at = form_.sparse.begin(n); at < form_.sparse.end(n); ++at)
      weights[static_cast<size_t>(form_.sparse.columns[static_cast<size_t>(at)])] = 0;
  }

  // Dense columns [begin, end), one after the other. values, weights: (end - begin) x N. Within a column one channel's
  // importance is one factor, which changes nothing.
  void columns(int64_t begin, int64_t end, std::span<float> values, std::span<float> weights) const {
    const auto columns = std::span(dense_).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    std::vector<float> part(columns.size(), 1.0f);
    const auto rows = static_cast<size_t>(layer_.rows);
    for (size_t n = 0; n < rows; ++n) {
      const auto row = layer_.row(static_cast<int64_t>(n));
      for (size_t i = 0; i < columns.size(); ++i) values[i * rows + n] = row[static_cast<size_t>(columns[i])];
      if (!weighted()) continue;
      if (!importance_.weights.empty()) importance_.row(static_cast<int64_t>(n), columns, part);
      for (size_t i = 0; i < columns.size(); ++i) weights[i * rows + n] = part[i];
      leave_out(n, begin, end, weights);
    }
  }

 private:
  void leave_out(size_t n, int64_t begin, int64_t end, std::span<float> weights) const {
    const SparseWeights& sparse = form_.sparse;
    if (sparse.row_ends.empty()) return;
    const auto first = sparse.columns.begin() + sparse.begin(static_cast<int64_t>(n)),
               last = sparse.columns.begin() + sparse.end(static_cast<int64_t>(n));
    for (auto at = std::lower_bound(first, last, begin); at != last && *at < end; ++at)
      weights[static_cast<size_t>((*at - begin) * layer_.rows) + n] = 0;
  }

  const FloatLayer& layer_;
  const LayerForm& form_;
  const Importance& importance_;
  std::vector<int32_t> dense_;
};

std::span<const float> part_of(const std::vector<float>& all, bool there, int64_t begin, int64_t count) {
  return there ? std::span(all).subspan(static_cast<size_t>(begin), static_cast<size_t>(count))
               : std::span<const float>();
}

// Tables of rows, or of groups of rows.
void learn_rows(const Runs& runs, const NumberFormat& format, int64_t rows, const MakeLevelFit& make,
                std::vector<float>& out, ThreadPool& pool) {
  const int64_t dense = runs.dense(), size = format.group_size(dense), count = format.levels_count();
  pool.run_ranges(rows, 4, [&](int64_t begin, int64_t end) {
    const LevelFit fit = make();
    std::vector<float> values(static_cast<size_t>(dense)), weights(values.size());
    for (int64_t n = begin; n < end; ++n) {
      runs.row(n, values, weights);
      for (int64_t g = 0; g < format.groups(dense); ++g) {
        const int64_t many = std::min(size, dense - g * size);
        fit(part_of(values, true, g * size, many), part_of(weights, runs.weighted(), g * size, many),
            std::span(out).subspan(static_cast<size_t>((n * format.groups(dense) + g) * count),
                                   static_cast<size_t>(count)));
      }
    }
  });
}

void learn_columns(const Runs& runs, std::span<const uint8_t> widths, int64_t rows, const MakeLevelFit& make,
                   std::vector<float>& out, ThreadPool& pool) {
  std::vector<size_t> places;  // where each column's numbers begin
  size_t place = 0;
  for (const uint8_t bits : widths) {
    places.push_back(place);
    place += bits <= kTableBits ? size_t{1} << bits : 1;
  }
  pool.run_ranges(runs.dense(), kColumnsAtATime, [&](int64_t begin, int64_t end) {
    const LevelFit fit = make();
    std::vector<float> values(static_cast<size_t>((end - begin) * rows)), weights(runs.weighted() ? values.size() : 0);
    runs.columns(begin, end, values, weights);
    for (int64_t i = begin; i < end; ++i) {
      const auto of = part_of(values, true, (i - begin) * rows, rows),
                 by = part_of(weights, runs.weighted(), (i - begin) * rows, rows);
      const int bits = widths[static_cast<size_t>(i)];
      const auto to = std::span(out).subspan(places[static_cast<size_t>(i)]);
      if (bits <= kTableBits) {
        fit(of, by, to.first(size_t{1} << bits));
      } else {
        to[0] = column_scale(of, by, bits);
      }
    }
  });
}

}  // namespace

void Importance::row(int64_t n, std::span<const int32_t> columns, std::span<float> out) const {
  if (equal()) return std::fill(out.begin(), out.end(), 1.0f);
  const std::span<const float> all =
      channels.empty() ? std::span(weights).subspan(static_cast<size_t>(n * width), static_cast<size_t>(width))
                       : std::span(channels);
  for (size_t i = 0; i < columns.size(); ++i) out[i] = all[static_cast<size_t>(columns[i])];
}

LevelFit make_kmeans() {
  return [kmeans = std::make_shared<KMeans>()](std::span<const float> values, std::span<const float> weights,
                                               std::span<float> levels) {
    const int count = static_cast<int>(levels.size());
    kmeans->solve(values, weights, count);
    kmeans->levels(count, levels);
  };
}

std::vector<float> learn_levels(const FloatLayer& layer, const LayerForm& form, const Importance& importance,
                                const MakeLevelFit& make, ThreadPool& pool) {
  std::vector<float> out(empty_layer(layer, form).levels);
  const Runs runs(layer, form, importance);
  if (form.weights.sharing != Sharing::column) {
    learn_rows(runs, form.weights, layer.rows, make, out, pool);
    return out;
  }
  const std::vector<uint8_t> same(static_cast<size_t>(runs.dense()), static_cast<uint8_t>(form.weights.bits));
  learn_columns(runs, form.widths.empty() ? same : form.widths, layer.rows, make, out, pool);
  return out;
}

LinearWeight begin_layer(const FloatLayer& layer, const LayerForm& form, ThreadPool& pool) {
  LinearWeight weight = empty_layer(layer, form);
  if (!form.weights.is_learned()) return weight;
  weight.levels = form.levels.empty() ? learn_levels(layer, form, {}, make_kmeans, pool) : form.levels;
  if (form.sparse.columns.empty()) return weight;
  weight.sparse = form.sparse;
  weight.sparse.values.assign(weight.sparse.columns.size(), 0.0f);
  return weight;
}

}  // namespace nibble
