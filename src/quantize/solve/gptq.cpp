#include "quantize/solve/gptq.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/checked.h"
#include "kernels/product.h"
#include "quantize/solve/cholesky.h"
#include "quantize/solve/levels.h"
#include "quantize/solve/round.h"

namespace nibble {
namespace {

constexpr int64_t kMostRows = 256;  // of a task: U, which may be too large for any cache, is read once for all of them
constexpr int64_t kTasksPerThread = 4;
constexpr int64_t kTogether = 8;  // rows that are solved side by side
constexpr int64_t kStep = 32;     // columns that are solved one by one before the rest of their block is updated
constexpr int64_t kRun = 256;     // columns whose errors are packed and applied at a time
constexpr int64_t kStrip = 192;   // columns that they are applied to at a time
constexpr double kLeastRaisedDamp = 1e-4, kMostDamp = 10;

// What does not change from row to row.
struct Problem {
  const FloatLayer& layer;
  const LayerForm& form;
  const GptqFactor& factor;
  const GptqOptions& options;
  std::vector<int32_t> dense;     // original columns in stored order
  std::vector<int32_t> stored;    // for each position of a dense column its place in stored order
  std::vector<int32_t> group_of;  // and the number of its group
  std::vector<float> salience;    // by stored order, where scales go by it
  bool fit_groups_late = false;
  int64_t columns, dense_count, group;

  Problem(const FloatLayer& of, const LayerForm& into, const GptqFactor& with, const GptqOptions& how);
  double pivot(int64_t p) const { return factor.upper.row(p)[p]; }
  // Where the block of columns that starts here ends. Groups that are fitted late lie in it whole, since none may be
  // fitted before all updates of its columns, and so do fours of a pattern.
  int64_t batch_end(int64_t begin) const;
};

Problem::Problem(const FloatLayer& of, const LayerForm& into, const GptqFactor& with, const GptqOptions& how)
    : layer(of),
      form(into),
      factor(with),
      options(how),
      dense(dense_columns_of(of.columns, into.kept)),
      columns(of.columns),
      dense_count(static_cast<int64_t>(dense.size())),
      group(into.weights.group_size(dense_count)) {
  std::vector<int32_t> place(static_cast<size_t>(columns), -1);
  for (size_t i = 0; i < dense.size(); ++i) place[static_cast<size_t>(dense[i])] = static_cast<int32_t>(i);
  for (int64_t p = 0; p < dense_count; ++p)
    stored.push_back(place[static_cast<size_t>(factor.order[static_cast<size_t>(p)])]);
  if (options.clip.by_salience) {
    salience.resize(dense.size());
    for (int64_t p = 0; p < dense_count; ++p)
      salience[static_cast<size_t>(stored[static_cast<size_t>(p)])] = static_cast<float>(1 / (pivot(p) * pivot(p)));
  }
  for (const int32_t at : stored) group_of.push_back(static_cast<int32_t>(at / group));
  const bool stored_order = form.sparse24 || options.order == ColumnOrder::natural ||
                            (options.order == ColumnOrder::kept_last && form.kept.empty());
  fit_groups_late = form.weights.sharing == Sharing::group && stored_order && !form.weights.is_learned();
}

int64_t Problem::batch_end(int64_t begin) const {
  int64_t unit = 1;
  if (fit_groups_late) {
    unit = group;
    while (form.sparse24 && unit % 4 != 0) unit += group;
  }
  return std::min(begin + std::max(options.block / unit, int64_t{1}) * unit, dense_count);
}

// Some rows on their way through the columns. `work` holds them in processing order. What the columns before a block
// have to say to it is said when the solver reaches the block; inside it, the solver goes in steps.
class Rows {
 public:
  Rows(const Problem& problem, LinearWeight& out, int64_t begin, int64_t end)
      : problem_(problem),
        out_(out),
        begin_(begin),
        count_(end - begin),
        work_(count_ * problem.columns),
        errors_(left_size(tile_, count_, problem.dense_count)),
        right_(right_size(tile_, kStrip, kRun)) {
    if (out_.format.sharing == Sharing::column) grids_of_columns_ = out_.grids(begin_);
    for (int64_t r = 0; r < count_; ++r) {
      error_rows_.push_back(r / tile_.rows * tile_.rows * problem.dense_count + r % tile_.rows);
      load(r);
    }
  }

  static int64_t bytes(int64_t rows, int64_t columns) {
    const ProductTile<double>& tile = solve_kernels().f64;
    const int64_t values = rows * columns + left_size(tile, rows, columns) + right_size(tile, kStrip, kRun);
    return values * static_cast<int64_t>(sizeof(double)) + 2 * rows * columns;  // and codes, and grids
  }

  void solve() {
    for (int64_t begin = 0; begin < problem_.dense_count;) {
      const int64_t end = problem_.batch_end(begin);
      update(0, begin, begin, end);
      for (int64_t at = begin; at < end;) {
        const int64_t stop = step_end(at, end);
        for (int64_t r = 0; r < count_; r += kTogether) solve_step(r, std::min(r + kTogether, count_), at, stop);
        update(at, stop, stop, end);
        at = stop;
      }
      begin = end;
    }
    update(0, problem_.dense_count, problem_.dense_count, problem_.columns);
    for (int64_t r = 0; r < count_; ++r) store(r);
  }

 private:
  double* row(int64_t r) { return work_.data() + r * problem_.columns; }
  // Minus the errors of row r by position, R values apart: where the left factor of a product has them.
  double* errors_of(int64_t r) { return errors_.data() + error_rows_[static_cast<size_t>(r)]; }

  // A step ends with a group that is fitted late, and tears no four apart.
  int64_t step_end(int64_t begin, int64_t end) const {
    end = std::min(end, begin + kStep);
    if (problem_.fit_groups_late) end = std::min(end, (begin / problem_.group + 1) * problem_.group);
    if (problem_.form.sparse24 && end / 4 * 4 > begin) end = end / 4 * 4;
    return end;
  }

  void load(int64_t r) {
    const auto original = problem_.layer.row(begin_ + r);
    solved_.emplace_back(out_, begin_ + r);
    if (out_.format.is_learned()) {
      if (grids_of_columns_.empty()) solved_.back().grids = out_.grids(begin_ + r);
    } else if (!problem_.fit_groups_late) {
      std::vector<float> dense(problem_.dense.size());
      for (size_t i = 0; i < dense.size(); ++i) dense[i] = original[static_cast<size_t>(problem_.dense[i])];
      solved_.back().grids = choose_grids(dense, problem_.form, problem_.options.clip, problem_.salience);
    }
    for (int64_t p = 0; p < problem_.columns; ++p) {
      const auto column = static_cast<size_t>(problem_.factor.order[static_cast<size_t>(p)]);
      const bool zero = problem_.options.zero_dead && problem_.factor.dead[column];
      row(r)[p] = zero ? 0 : static_cast<double>(original[column]);
    }
  }

  void fit_group(int64_t r, int64_t p) {
    const int64_t end = std::min(p + problem_.group, problem_.dense_count), g = p / problem_.group;
    std::vector<float> values;
    for (int64_t k = p; k < end; ++k) values.push_back(static_cast<float>(row(r)[k]));
    std::span<const float> salience = problem_.salience;
    if (!salience.empty()) salience = salience.subspan(static_cast<size_t>(p), values.size());
    solved_[static_cast<size_t>(r)].grids[static_cast<size_t>(g)] =
        choose_grid(values, problem_.form.weights.with_bits(out_.group_bits(g)), problem_.options.clip,
                    problem_.form.outer, salience);
  }

  void prune(int64_t r, int64_t p) {
    std::array<double, 4> worth;
    for (int64_t k = 0; k < 4; ++k) {
      const double scaled = row(r)[p + k] / problem_.pivot(p + k);
      worth[static_cast<size_t>(k)] = scaled * scaled;
    }
    auto& present = solved_[static_cast<size_t>(r)].present;
    choose_two_of_four(worth, std::span(present).subspan(static_cast<size_t>(p)).first<4>());
  }

  // Rows [r_begin, r_end) side by side: each waits for its own divisions.
  void solve_step(int64_t r_begin, int64_t r_end, int64_t begin, int64_t end) {
    if (problem_.fit_groups_late && begin % problem_.group == 0)
      for (int64_t r = r_begin; r < r_end; ++r) fit_group(r, begin);
    for (int64_t p = begin; p < end; ++p)
      for (int64_t r = r_begin; r < r_end; ++r) solve_column(r, p, end);
  }

  void solve_column(int64_t r, int64_t p, int64_t end) {
    SolvedRow& solved = solved_[static_cast<size_t>(r)];
    double* const w = row(r);
    if (problem_.form.sparse24 && p % 4 == 0) prune(r, p);
    const auto at = static_cast<size_t>(problem_.stored[static_cast<size_t>(p)]);
    const std::vector<Grid>& grids = grids_of_columns_.empty() ? solved.grids : grids_of_columns_;
    const Grid& grid = grids[static_cast<size_t>(problem_.group_of[static_cast<size_t>(p)])];
    const bool pruned = problem_.form.sparse24 && !solved.present[at];
    const int32_t code = pruned ? grid.zero() : grid.encode(static_cast<float>(w[p]));
    solved.codes[at] = static_cast<uint8_t>(code);
    const double* const u = problem_.factor.upper.row(p);
    auto value = static_cast<double>(grid.decode(code));
    if (!out_.sparse.empty()) value += solved.set_apart(out_, begin_ + r, static_cast<int32_t>(at), w[p] - value);
    const double error = (value - w[p]) / u[p];
    errors_of(r)[p * tile_.rows] = error;
    kernels_.add_scaled({error, u + p + 1, w + p + 1, end - p - 1});
  }

  // What the errors of columns [k_begin, k_end) do to columns [begin, end), which come after them.
  void update(int64_t k_begin, int64_t k_end, int64_t begin, int64_t end) {
    auto left = PackedLeft<double>::of(errors_.data(), problem_.dense_count, tile_);
    for (int64_t column = begin; column < end; column += kStrip) {
      const int64_t width = std::min(kStrip, end - column);
      for (int64_t k = k_begin; k < k_end; k += kRun) {
        const int64_t depth = std::min(kRun, k_end - k);
        pack_right(
            tile_, width, depth, depth, [&](int64_t i) { return problem_.factor.upper.row(k + i) + column; },
            right_.data());
        left.data = errors_.data() + k * tile_.rows;
        add_product(tile_, left, right_.data(), depth * tile_.columns, work_.data() + column, problem_.columns, count_,
                    width, depth);
      }
    }
  }

  void store(int64_t r) {
    SolvedRow& solved = solved_[static_cast<size_t>(r)];
    for (int64_t p = problem_.dense_count; p < problem_.columns; ++p) {
      const auto& kept = problem_.form.kept;
      const int32_t column = problem_.factor.order[static_cast<size_t>(p)];
      const auto at = std::lower_bound(kept.begin(), kept.end(), column) - kept.begin();
      solved.kept[static_cast<size_t>(at)] = static_cast<float>(row(r)[p]);
    }
    store_row(out_, begin_ + r, solved);
  }

  const Problem& problem_;
  LinearWeight& out_;
  const SolveKernels& kernels_ = solve_kernels();
  const ProductTile<double>& tile_ = kernels_.f64;
  int64_t begin_, count_;
  AlignedBuffer<double> work_, errors_, right_;  // [row][K]; packed to the left; a piece of U, packed to the right
  std::vector<int64_t> error_rows_;              // where each row's errors begin
  std::vector<SolvedRow> solved_;
  std::vector<Grid> grids_of_columns_;  // where all rows share them
};

int64_t rows_per_task(int64_t rows, int threads) {
  return std::clamp<int64_t>(round_up(ceil_div(rows, kTasksPerThread * threads), 16), 16, kMostRows);
}

// H by position, without damping. Returns the mean of its diagonal.
double arrange(const Gram& gram, GptqFactor& factor, Triangle& h, ThreadPool& pool) {
  const int64_t n = gram.width();
  const double weight = 2.0 / static_cast<double>(gram.tokens());
  pool.run_ranges(n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = factor.order[static_cast<size_t>(i)];
      double* const row = h.row(i);
      for (int64_t j = i; j < n; ++j) row[j] = weight * gram.at(column, factor.order[static_cast<size_t>(j)]);
      const bool dead = gram.at(column, column) == 0;
      factor.dead[static_cast<size_t>(column)] = dead;
      if (dead) row[i] = 1;
    }
  });
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += h.row(i)[i];
  return trace / static_cast<double>(n);
}

void sort_dense(std::vector<int32_t>& order, size_t dense, const auto& before) {
  std::stable_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(dense), before);
}

}  // namespace

std::vector<int32_t> column_order(ColumnOrder order, bool dense_in_stored_order, std::span<const int32_t> kept,
                                  std::span<const float> absmax, const Gram& gram) {
  std::vector<int32_t> columns = dense_columns_of(gram.width(), kept);
  const size_t dense = columns.size();
  columns.insert(columns.end(), kept.begin(), kept.end());
  const auto quieter = [&](int32_t a, int32_t b) {
    return absmax[static_cast<size_t>(a)] < absmax[static_cast<size_t>(b)];
  };
  if (order == ColumnOrder::kept_last && !kept.empty()) {
    if (!dense_in_stored_order) sort_dense(columns, dense, quieter);
    std::stable_sort(columns.begin() + static_cast<std::ptrdiff_t>(dense), columns.end(), quieter);
  }
  if (order == ColumnOrder::activation && !dense_in_stored_order)
    sort_dense(columns, dense, [&](int32_t a, int32_t b) { return gram.at(a, a) > gram.at(b, b); });
  return columns;
}

Result<GptqFactor> factorise(const Gram& gram, std::vector<int32_t> order, double damp, std::string_view name,
                             ThreadPool& pool) {
  const int64_t n = gram.width();
  GptqFactor factor;
  factor.order = std::move(order);
  factor.dead.resize(static_cast<size_t>(n));
  factor.upper = Triangle(n);
  for (factor.damp = damp; factor.damp <= kMostDamp; factor.damp = std::max(factor.damp * 10, kLeastRaisedDamp)) {
    const double added = factor.damp * arrange(gram, factor, factor.upper, pool);
    for (int64_t i = 0; i < n; ++i) factor.upper.row(i)[i] += added;
    if (upper_factor_of_inverse(factor.upper, pool)) return factor;
  }
  return fail(ErrorCode::failure,
              "{}: the Gram matrix of its input over {} tokens is not positive definite, even with damping {}: more or "
              "other calibration text is needed",
              name, gram.tokens(), kMostDamp);
}

int64_t gptq_scratch_bytes(int64_t rows, int64_t columns, int threads) {
  return threads * Rows::bytes(rows_per_task(rows, threads), columns);
}

Result<LinearWeight> gptq(const FloatLayer& layer, const LayerForm& form, const GptqFactor& factor,
                          const GptqOptions& options, ThreadPool& pool) {
  const Problem problem(layer, form, factor, options);
  LinearWeight weight = begin_layer(layer, form, pool);
  pool.run_ranges(layer.rows, rows_per_task(layer.rows, pool.size()),
                  [&](int64_t begin, int64_t end) { Rows(problem, weight, begin, end).solve(); });
  NIBBLE_DO(check_kept(weight, layer.name));
  return weight;
}

}  // namespace nibble
