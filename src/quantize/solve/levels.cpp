#include "quantize/solve/levels.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "quantize/solve/kmeans.h"

namespace nibble {
namespace {

constexpr int64_t kColumnsAtATime = 16;  // neighbours in a row: a line of memory holds their weights

// The least exponent of integers of 8 bits that hold values up to so much.
int exponent_of(float most) {
  int exponent = 0;
  const float fraction = std::frexp(most, &exponent);
  if (!(fraction > 0)) return kLeastExponent;
  const bool fits = std::nearbyint(std::ldexp(fraction, 7)) <= kGreatestLevel;
  return std::clamp(exponent - (fits ? 7 : 6), kLeastExponent, kMostExponent);
}

double integer_cost(std::span<const float> values, std::span<const float> weights, const Grid& grid) {
  double cost = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const auto error = static_cast<double>(grid.round(values[i]) - values[i]);
    cost += (weights.empty() ? 1 : static_cast<double>(weights[i])) * error * error;
  }
  return cost;
}

// Rounds the tables of a layer to integers.
void round_levels(LinearWeight& weight) {
  float* level = weight.levels.data();
  for (size_t t = 0; t < weight.exponents.size(); ++t) {
    const int bits = weight.widths.empty() ? weight.format.bits : weight.widths[t], exponent = weight.exponents[t];
    for (float* const end = level + (bits > kTableBits ? 0 : 1 << bits); level < end; ++level) {
      const float integer = std::nearbyint(std::ldexp(*level, -exponent)) + 0.0f;
      *level = std::ldexp(std::clamp<float>(integer, -kGreatestLevel, kGreatestLevel), exponent);
    }
  }
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

int8_t exponent_of_table(std::span<const float> levels) {
  return static_cast<int8_t>(exponent_of(std::max(std::fabs(levels.front()), std::fabs(levels.back()))));
}

// Tables of rows, or of groups of rows.
void learn_rows(const Runs& runs, const NumberFormat& format, int64_t rows, const MakeLevelFit& make,
                LearnedLevels& out, ThreadPool& pool) {
  const int64_t dense = runs.dense(), size = format.group_size(dense), count = format.levels_count();
  pool.run_ranges(rows, 4, [&](int64_t begin, int64_t end) {
    const LevelFit fit = make();
    std::vector<float> values(static_cast<size_t>(dense)), weights(values.size());
    for (int64_t n = begin; n < end; ++n) {
      runs.row(n, values, weights);
      for (int64_t g = 0; g < format.groups(dense); ++g) {
        const int64_t many = std::min(size, dense - g * size), table = n * format.groups(dense) + g;
        const auto levels =
            std::span(out.levels).subspan(static_cast<size_t>(table * count), static_cast<size_t>(count));
        fit(part_of(values, true, g * size, many), part_of(weights, runs.weighted(), g * size, many), levels);
        out.exponents[static_cast<size_t>(table)] = exponent_of_table(levels);
      }
    }
  });
}

void learn_columns(const Runs& runs, std::span<const uint8_t> widths, int64_t rows, const MakeLevelFit& make,
                   LearnedLevels& out, ThreadPool& pool) {
  std::vector<size_t> places;  // where each column's numbers begin
  size_t place = 0;
  for (const uint8_t bits : widths) {
    places.push_back(place);
    place += bits <= kTableBits ? size_t{1} << bits : 0;
  }
  pool.run_ranges(runs.dense(), kColumnsAtATime, [&](int64_t begin, int64_t end) {
    const LevelFit fit = make();
    std::vector<float> values(static_cast<size_t>((end - begin) * rows)), weights(runs.weighted() ? values.size() : 0);
    runs.columns(begin, end, values, weights);
    for (int64_t i = begin; i < end; ++i) {
      const auto of = part_of(values, true, (i - begin) * rows, rows),
                 by = part_of(weights, runs.weighted(), (i - begin) * rows, rows);
      const int bits = widths[static_cast<size_t>(i)];
      int8_t& exponent = out.exponents[static_cast<size_t>(i)];
      if (bits <= kTableBits) {
        const auto levels = std::span(out.levels).subspan(places[static_cast<size_t>(i)], size_t{1} << bits);
        fit(of, by, levels);
        exponent = exponent_of_table(levels);
      } else {
        exponent = static_cast<int8_t>(fit_exponent(of, by, bits).exponent);
      }
    }
  });
}

}  // namespace

void Importance::row(int64_t n, std::span<const int32_t> columns, std::span<float> out) const {
  if (equal()) return std::fill(out.begin(), out.end(), 1.0f);
  const std::span<const float> all = channels.empty()
                                         ? weights.subspan(static_cast<size_t>(n * width), static_cast<size_t>(width))
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

ExponentFit fit_exponent(std::span<const float> values, std::span<const float> weights, int bits) {
  float most = 0;
  for (size_t i = 0; i < values.size(); ++i)
    if (weights.empty() || weights[i] > 0) most = std::max(most, std::fabs(values[i]));
  const int whole = exponent_of(most), less = std::max(whole - 1, kLeastExponent);
  const double cost = integer_cost(values, weights, Grid::without_table(whole, bits)),
               cut = integer_cost(values, weights, Grid::without_table(less, bits));
  return cut < cost ? ExponentFit{less, cut} : ExponentFit{whole, cost};
}

LearnedLevels learn_levels(const FloatLayer& layer, const LayerForm& form, const Importance& importance,
                           const MakeLevelFit& make, ThreadPool& pool) {
  const LinearWeight empty = empty_layer(layer, form);
  LearnedLevels out{empty.levels, empty.exponents};
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
  LearnedLevels learned = form.learned;
  if (learned.exponents.empty()) learned = learn_levels(layer, form, {}, make_kmeans, pool);
  weight.levels = std::move(learned.levels);
  weight.exponents = std::move(learned.exponents);
  round_levels(weight);
  if (form.sparse.columns.empty()) return weight;
  weight.sparse = form.sparse;
  weight.sparse.values.assign(weight.sparse.columns.size(), 0.0f);
  return weight;
}

}  // namespace nibble
