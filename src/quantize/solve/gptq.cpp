#include "quantize/solve/gptq.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/checked.h"
#include "quantize/solve/cholesky.h"
#include "quantize/solve/product.h"
#include "quantize/solve/round.h"

namespace nibble {
namespace {

constexpr int64_t kRowsPerTask = 16;
constexpr double kLeastRaisedDamp = 1e-4, kMostDamp = 10;

// What does not change from row to row.
struct Problem {
  const FloatLayer& layer;
  const LayerForm& form;
  const GptqFactor& factor;
  const GptqOptions& options;
  std::vector<int32_t> dense;   // original columns in stored order
  std::vector<int32_t> stored;  // for each position of a dense column its place in stored order
  bool fit_groups_late = false;
  int64_t columns, dense_count, group;

  Problem(const FloatLayer& of, const LayerForm& into, const GptqFactor& with, const GptqOptions& how);
  Strided<const double> upper() const { return {factor.upper.data(), columns, 1}; }
  // Updates of later columns are put off to the end of a batch. A batch ends with a group that is fitted late, unless
  // groups lie inside blocks anyway: no group may be fitted before all updates of its columns.
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
  const bool stored_order = form.sparse24 || options.order == ColumnOrder::natural ||
                            (options.order == ColumnOrder::kept_last && form.kept.empty());
  fit_groups_late = form.weights.sharing == Sharing::group && stored_order;
}

int64_t Problem::batch_end(int64_t begin) const {
  int64_t end = std::min(begin + options.block, dense_count);
  if (fit_groups_late && options.block % group != 0) end = std::min(end, (begin / group + 1) * group);
  return end;
}

// A few rows on their way through the columns. `work` holds them in processing order.
class Rows {
 public:
  Rows(const Problem& problem, LinearWeight& out, int64_t begin, int64_t end)
      : problem_(problem),
        out_(out),
        begin_(begin),
        count_(end - begin),
        work_(count_ * problem.columns),
        errors_(count_ * problem.options.block) {
    for (int64_t r = 0; r < count_; ++r) load(r);
  }

  void solve() {
    for (int64_t begin = 0; begin < problem_.dense_count;) {
      const int64_t end = problem_.batch_end(begin);
      for (int64_t r = 0; r < count_; ++r) solve_batch(r, begin, end);
      update_later(begin, end);
      begin = end;
    }
    for (int64_t r = 0; r < count_; ++r) store(r);
  }

 private:
  double* row(int64_t r) { return work_.data() + r * problem_.columns; }
  double* errors(int64_t r) { return errors_.data() + r * problem_.options.block; }

  void load(int64_t r) {
    const auto original = problem_.layer.row(begin_ + r);
    solved_.emplace_back(out_);
    if (!problem_.fit_groups_late) {
      std::vector<float> dense(problem_.dense.size());
      for (size_t i = 0; i < dense.size(); ++i) dense[i] = original[static_cast<size_t>(problem_.dense[i])];
      solved_.back().grids = choose_grids(dense, problem_.form.weights, problem_.options.clip);
    }
    for (int64_t p = 0; p < problem_.columns; ++p) {
      const auto column = static_cast<size_t>(problem_.factor.order[static_cast<size_t>(p)]);
      const bool zero = problem_.options.zero_dead && problem_.factor.dead[column];
      row(r)[p] = zero ? 0 : static_cast<double>(original[column]);
    }
  }

  void fit_group(int64_t r, int64_t p) {
    const int64_t end = std::min(p + problem_.group, problem_.dense_count);
    std::vector<float> values;
    for (int64_t k = p; k < end; ++k) values.push_back(static_cast<float>(row(r)[k]));
    solved_[static_cast<size_t>(r)].grids[static_cast<size_t>(p / problem_.group)] =
        choose_grid(values, problem_.form.weights, problem_.options.clip);
  }

  void prune(int64_t r, int64_t p) {
    std::array<double, 4> worth;
    for (int64_t k = 0; k < 4; ++k) {
      const double scaled = row(r)[p + k] / problem_.upper().at(p + k, p + k);
      worth[static_cast<size_t>(k)] = scaled * scaled;
    }
    auto& present = solved_[static_cast<size_t>(r)].present;
    choose_two_of_four(worth, std::span(present).subspan(static_cast<size_t>(p)).first<4>());
  }

  void solve_batch(int64_t r, int64_t begin, int64_t end) {
    SolvedRow& solved = solved_[static_cast<size_t>(r)];
    double* w = row(r);
    for (int64_t p = begin; p < end; ++p) {
      if (problem_.fit_groups_late && p % problem_.group == 0) fit_group(r, p);
      if (problem_.form.sparse24 && p % 4 == 0) prune(r, p);
      const auto at = static_cast<size_t>(problem_.stored[static_cast<size_t>(p)]);
      const Grid& grid = solved.grids[at / static_cast<size_t>(problem_.group)];
      const bool pruned = problem_.form.sparse24 && !solved.present[at];
      const int32_t code = pruned ? grid.offset : grid.encode(static_cast<float>(w[p]));
      solved.codes[at] = static_cast<uint8_t>(code);
      const double* u = problem_.upper().data + p * problem_.columns;
      const double error = (w[p] - static_cast<double>(grid.decode(code))) / u[p];
      errors(r)[p - begin] = error;
      for (int64_t c = p + 1; c < end; ++c) w[c] -= error * u[c];
    }
  }

  void update_later(int64_t begin, int64_t end) {
    add_product<double>({work_.data() + end, problem_.columns, 1}, {errors_.data(), problem_.options.block, 1},
                        problem_.upper().shifted(begin, end), count_, problem_.columns - end, end - begin, -1);
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
  int64_t begin_, count_;
  AlignedBuffer<double> work_, errors_;
  std::vector<SolvedRow> solved_;
};

// H by position, without damping; only its upper triangle. Returns the mean of its diagonal.
double arrange(const Gram& gram, GptqFactor& factor, AlignedBuffer<double>& h) {
  const int64_t n = gram.width();
  const double weight = 2.0 / static_cast<double>(gram.tokens());
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t column = factor.order[static_cast<size_t>(i)];
    const bool dead = gram.at(column, column) == 0;
    factor.dead[static_cast<size_t>(column)] = dead;
    for (int64_t j = i; j < n; ++j) {
      const int64_t other = factor.order[static_cast<size_t>(j)];
      h[i * n + j] = weight * gram.at(std::min(column, other), std::max(column, other));
    }
    if (dead) h[i * n + i] = 1;
    trace += h[i * n + i];
  }
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
  for (factor.damp = damp; factor.damp <= kMostDamp; factor.damp = std::max(factor.damp * 10, kLeastRaisedDamp)) {
    AlignedBuffer<double> h(n * n);
    const double added = factor.damp * arrange(gram, factor, h);
    for (int64_t i = 0; i < n; ++i) h[i * n + i] += added;
    factor.upper = upper_factor_of_inverse(std::move(h), n, pool);
    if (factor.upper.size() > 0) return factor;
  }
  return fail(ErrorCode::failure,
              "{}: the Gram matrix of its input over {} tokens is not positive definite, even with damping {}: more or "
              "other calibration text is needed",
              name, gram.tokens(), kMostDamp);
}

Result<LinearWeight> gptq(const FloatLayer& layer, const LayerForm& form, const GptqFactor& factor,
                          const GptqOptions& options, ThreadPool& pool) {
  const Problem problem(layer, form, factor, options);
  LinearWeight weight = empty_layer(layer, form);
  pool.run_ranges(layer.rows, kRowsPerTask,
                  [&](int64_t begin, int64_t end) { Rows(problem, weight, begin, end).solve(); });
  NIBBLE_DO(check_kept(weight, layer.name));
  return weight;
}

}  // namespace nibble
