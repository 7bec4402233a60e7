#include "quantize/solve/apportion.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/checked.h"
#include "quantize/solve/error.h"

namespace nibble {
namespace {

constexpr int64_t kRows = 16;  // of a task; their sums are added in order, whoever ran them

// Sums over `rows` rows at equal distances of what `add(row, out)` adds to `count` numbers. row: the dense values.
template <class Add>
std::vector<double> sum_rows(const FloatLayer& layer, int64_t rows, std::span<const int32_t> dense, size_t count,
                             ThreadPool& pool, const Add& add) {
  const int64_t tasks = ceil_div(rows, kRows);
  std::vector<std::vector<double>> parts(static_cast<size_t>(tasks));
  pool.run(tasks, [&](int64_t task) {
    std::vector<double>& out = parts[static_cast<size_t>(task)];
    out.assign(count, 0);
    std::vector<float> values(dense.size());
    for (int64_t i = task * kRows; i < std::min(rows, (task + 1) * kRows); ++i) {
      const auto row = layer.row(i * layer.rows / rows);
      for (size_t k = 0; k < dense.size(); ++k) values[k] = row[static_cast<size_t>(dense[k])];
      add(std::span<const float>(values), out);
    }
  });
  std::vector<double> sums(count);
  for (const std::vector<double>& part : parts)
    for (size_t i = 0; i < count; ++i) sums[i] += part[i];
  return sums;
}

// The cheapest ways to spend bits on groups of one size, one after the other: least[c] of all groups so far with c
// steps above the least width, taken[g][c] of them by group g.
class Purse {
 public:
  Purse(std::span<const double> costs, size_t groups, int least, int most, size_t steps)
      : low_(least), least_(steps + 1, 0), taken_(groups, std::vector<uint8_t>(steps + 1)) {
    const auto range = static_cast<size_t>(most - least);
    for (size_t g = 0; g < groups; ++g) {
      std::vector<double> next(steps + 1, std::numeric_limits<double>::infinity());
      for (size_t c = 0; c <= steps; ++c)
        for (size_t s = 0; s <= std::min(range, c); ++s) {
          const double cost = least_[c - s] + costs[g * (kMostWidth + 1) + static_cast<size_t>(least) + s];
          if (cost >= next[c]) continue;
          next[c] = cost;
          taken_[g][c] = static_cast<uint8_t>(s);
        }
      least_ = std::move(next);
    }
  }

  // Of spending at most `steps`; beyond what there is to buy, everything.
  double cost(size_t steps) const { return least_[best(steps)]; }
  std::vector<uint8_t> bits(size_t steps) const {
    std::vector<uint8_t> out(taken_.size());
    size_t left = best(steps);
    for (size_t g = taken_.size(); g-- > 0;) {
      const uint8_t taken = taken_[g][left];
      out[g] = static_cast<uint8_t>(low_ + taken);
      left -= taken;
    }
    return out;
  }

 private:
  size_t best(size_t steps) const {
    const auto end = least_.begin() + static_cast<std::ptrdiff_t>(std::min(steps + 1, least_.size()));
    return static_cast<size_t>(std::min_element(least_.begin(), end) - least_.begin());
  }

  int low_;
  std::vector<double> least_;
  std::vector<std::vector<uint8_t>> taken_;
};

}  // namespace

std::vector<uint8_t> bits_by_rank(std::span<const double> salience, std::span<const int64_t> sizes, int bits,
                                  size_t swapped) {
  std::vector<size_t> order;
  for (size_t g = 0; g < sizes.size(); ++g)
    if (sizes[g] == sizes[0]) order.push_back(g);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return salience[a] > salience[b]; });
  std::vector<uint8_t> out(sizes.size(), static_cast<uint8_t>(bits));
  for (size_t i = 0; i < std::min(swapped, order.size() / 2); ++i) {
    out[order[i]]++;
    out[order[order.size() - 1 - i]]--;
  }
  return out;
}

std::vector<uint8_t> bits_by_cost(std::span<const double> costs, std::span<const int64_t> sizes, int least, int most,
                                  double budget) {
  if (sizes.empty()) return {};
  const auto size = static_cast<double>(sizes[0]);
  const bool uneven = sizes.back() != sizes[0];
  const size_t even = sizes.size() - (uneven ? 1 : 0);
  const int64_t columns = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  const double spare = budget - static_cast<double>(columns * least) + size / 2;
  const size_t all = even * static_cast<size_t>(most - least);
  const auto affordable = [&](double bits) {
    return bits <= 0 ? size_t{0} : static_cast<size_t>(std::min(bits / size, static_cast<double>(all)));
  };
  const Purse purse(costs, even, least, most, affordable(spare));
  std::vector<uint8_t> best;
  double least_cost = std::numeric_limits<double>::infinity();
  for (int last = least; last <= (uneven ? most : least); ++last) {
    const double left = spare - static_cast<double>(last - least) * static_cast<double>(sizes.back());
    if (left < 0 && last > least) break;
    const double own = uneven ? costs[even * (kMostWidth + 1) + static_cast<size_t>(last)] : 0;
    if (const double cost = purse.cost(affordable(left)) + own; cost < least_cost) {
      least_cost = cost;
      best = purse.bits(affordable(left));
      if (uneven) best.push_back(static_cast<uint8_t>(last));
    }
  }
  return best;
}

std::vector<int64_t> group_sizes(const NumberFormat& format, int64_t dense_columns) {
  std::vector<int64_t> sizes;
  for (int64_t begin = 0; begin < dense_columns; begin += format.group)
    sizes.push_back(std::min(format.group, dense_columns - begin));
  return sizes;
}

std::vector<uint8_t> widths_of_columns(std::span<const uint8_t> bits, std::span<const int64_t> sizes) {
  std::vector<uint8_t> widths;
  for (size_t g = 0; g < sizes.size(); ++g) widths.insert(widths.end(), static_cast<size_t>(sizes[g]), bits[g]);
  return widths;
}

std::vector<float> column_salience(const GptqFactor& factor, std::span<const int32_t> dense) {
  std::vector<float> by_column(factor.order.size());
  for (size_t p = 0; p < factor.order.size(); ++p) {
    const auto at = static_cast<int64_t>(p);
    const double pivot = factor.upper.row(at)[at];
    by_column[static_cast<size_t>(factor.order[p])] = static_cast<float>(1 / (pivot * pivot));
  }
  std::vector<float> out;
  for (const int32_t column : dense) out.push_back(by_column[static_cast<size_t>(column)]);
  return out;
}

std::vector<double> group_salience(const FloatLayer& layer, std::span<const int32_t> dense,
                                   std::span<const float> salience, std::span<const int64_t> sizes, ThreadPool& pool) {
  return sum_rows(
      layer, layer.rows, dense, sizes.size(), pool, [&](std::span<const float> values, std::span<double> out) {
        size_t k = 0;
        for (size_t g = 0; g < sizes.size(); ++g)
          for (const size_t end = k + static_cast<size_t>(sizes[g]); k < end; ++k)
            out[g] +=
                static_cast<double>(values[k]) * static_cast<double>(values[k]) * static_cast<double>(salience[k]);
      });
}

std::vector<double> group_costs(const FloatLayer& layer, const LayerForm& form, std::span<const int32_t> dense,
                                std::span<const float> salience, const Clip& clip, int least, int most,
                                ThreadPool& pool) {
  const std::vector<int64_t> sizes = group_sizes(form.weights, static_cast<int64_t>(dense.size()));
  const auto add = [&](std::span<const float> values, std::span<double> out) {
    size_t begin = 0;
    for (size_t g = 0; g < sizes.size(); begin += static_cast<size_t>(sizes[g++])) {
      const auto run = values.subspan(begin, static_cast<size_t>(sizes[g]));
      const auto counts = salience.subspan(begin, run.size());
      for (int bits = least; bits <= most; ++bits) {
        const Grid grid = choose_grid(run, form.weights.with_bits(bits), clip, form.outer,
                                      clip.by_salience ? counts : std::span<const float>());
        out[g * (kMostWidth + 1) + static_cast<size_t>(bits)] += salient_error(run, counts, grid);
      }
    }
  };
  return sum_rows(layer, std::min(layer.rows, kErrorRows), dense, sizes.size() * (kMostWidth + 1), pool, add);
}

}  // namespace nibble
