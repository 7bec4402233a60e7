#include "quantize/solve/sparse.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace nibble {
namespace {

// Worths of one row's dense weights.
using Worths = std::function<void(int64_t n, std::span<float> out)>;

constexpr int kDigit = 16;
constexpr size_t kDigits = size_t{1} << kDigit;

int64_t count_of(double share, int64_t weights) { return static_cast<int64_t>(share * static_cast<double>(weights)); }

// Scores by their bits, which for numbers from 0 on are in the same order. What was chosen before has none.
class Selection {
 public:
  Selection(const FloatLayer& layer, LayerForm& form, ThreadPool& pool)
      : layer_(layer), form_(form), pool_(pool), dense_(dense_columns_of(layer.columns, form.kept)) {
    if (form.sparse.row_ends.empty()) form.sparse.row_ends.assign(static_cast<size_t>(layer.rows), 0);
  }

  const std::vector<int32_t>& dense() const { return dense_; }
  int64_t weights() const { return layer_.rows * static_cast<int64_t>(dense_.size()); }

  void take(double share, const Worths& worths) {
    const int64_t wanted = count_of(share, weights());
    if (wanted == 0) return;
    // The wanted-th greatest score, digit by digit from above.
    uint32_t prefix = 0;
    int64_t above = 0;
    for (const int shift : {32 - kDigit, 0}) {
      const std::vector<int64_t> counts = count_digits(worths, prefix, shift);
      size_t digit = kDigits - 1;
      while (digit > 0 && above + counts[digit] < wanted) above += counts[digit--];
      prefix |= static_cast<uint32_t>(digit) << shift;
    }
    add(worths, prefix, wanted - above);
  }

 private:
  // Positive scores of row n, as bits; 0 for what is not to be had.
  void scores(const Worths& worths, int64_t n, std::vector<float>& room, std::vector<uint32_t>& out) const {
    worths(n, room);
    for (size_t i = 0; i < room.size(); ++i) out[i] = room[i] > 0 ? std::bit_cast<uint32_t>(room[i]) : 0;
    const SparseWeights& sparse = form_.sparse;
    for (int64_t at = sparse.begin(n); at < sparse.end(n); ++at)
      out[static_cast<size_t>(sparse.columns[static_cast<size_t>(at)])] = 0;
  }

  template <class Visit>
  void for_rows(const Worths& worths, const Visit& visit) const {
    constexpr int64_t kRows = 16;
    pool_.run_by_thread((layer_.rows + kRows - 1) / kRows, [&](int64_t task, int thread) {
      std::vector<float> room(dense_.size());
      std::vector<uint32_t> bits(dense_.size());
      for (int64_t n = task * kRows; n < std::min(layer_.rows, (task + 1) * kRows); ++n) {
        scores(worths, n, room, bits);
        visit(n, thread, bits);
      }
    });
  }

  // How many scores with the digits above `shift` as in `prefix` have each digit there. Sums of whole numbers: in any
  // order they are the same.
  std::vector<int64_t> count_digits(const Worths& worths, uint32_t prefix, int shift) const {
    std::vector<std::vector<int64_t>> counts(static_cast<size_t>(pool_.size()), std::vector<int64_t>(kDigits));
    for_rows(worths, [&](int64_t, int thread, const std::vector<uint32_t>& bits) {
      for (const uint32_t score : bits)
        if (score != 0 && (shift != 0 || score >> kDigit == prefix >> kDigit))
          ++counts[static_cast<size_t>(thread)][score >> shift & (kDigits - 1)];
    });
    for (size_t thread = 1; thread < counts.size(); ++thread)
      for (size_t digit = 0; digit < kDigits; ++digit) counts[0][digit] += counts[thread][digit];
    return counts[0];
  }

  // All scores above `least`, and the first `ties` that are equal to it.
  void add(const Worths& worths, uint32_t least, int64_t ties) {
    std::vector<std::vector<int32_t>> above(static_cast<size_t>(layer_.rows)), equal(above.size());
    for_rows(worths, [&](int64_t n, int, const std::vector<uint32_t>& bits) {
      for (size_t i = 0; i < bits.size(); ++i)
        if (bits[i] >= least && bits[i] > 0)
          (bits[i] > least ? above : equal)[static_cast<size_t>(n)].push_back(static_cast<int32_t>(i));
    });
    SparseWeights out;
    for (int64_t n = 0; n < layer_.rows; ++n) {
      std::vector<int32_t>& row = above[static_cast<size_t>(n)];
      for (const int32_t column : equal[static_cast<size_t>(n)])
        if (ties-- > 0) row.push_back(column);
      const SparseWeights& before = form_.sparse;
      row.insert(row.end(), before.columns.begin() + before.begin(n), before.columns.begin() + before.end(n));
      std::sort(row.begin(), row.end());
      out.columns.insert(out.columns.end(), row.begin(), row.end());
      out.row_ends.push_back(static_cast<int32_t>(out.columns.size()));
    }
    form_.sparse = std::move(out);
  }

  const FloatLayer& layer_;
  LayerForm& form_;
  ThreadPool& pool_;
  std::vector<int32_t> dense_;
};

}  // namespace

int64_t most_sparse(const SparseShares& shares, int64_t weights) {
  return count_of(shares.sensitive, weights) + count_of(shares.effect, weights) + count_of(shares.magnitude, weights) +
         count_of(shares.loss, weights);
}

void choose_sparse(const FloatLayer& layer, LayerForm& form, const SparseShares& shares, const Importance& importance,
                   const MakeLevelFit& make, ThreadPool& pool) {
  Selection selection(layer, form, pool);
  const std::vector<int32_t>& dense = selection.dense();
  const auto weight = [&](int64_t n, size_t i) { return layer.row(n)[static_cast<size_t>(dense[i])]; };
  selection.take(shares.sensitive, [&](int64_t n, std::span<float> out) { importance.row(n, dense, out); });
  selection.take(shares.effect, [&](int64_t n, std::span<float> out) {
    importance.row(n, dense, out);
    for (size_t i = 0; i < out.size(); ++i) out[i] *= weight(n, i) * weight(n, i);
  });
  selection.take(shares.magnitude, [&](int64_t n, std::span<float> out) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = std::fabs(weight(n, i));
  });
  if (shares.loss == 0) return;
  LinearWeight tables = empty_layer(layer, form);
  LearnedLevels learned = learn_levels(layer, form, importance, make, pool);
  tables.levels = std::move(learned.levels);
  tables.exponents = std::move(learned.exponents);
  const auto size = static_cast<size_t>(form.weights.group_size(static_cast<int64_t>(dense.size())));
  selection.take(shares.loss, [&](int64_t n, std::span<float> out) {
    const std::vector<Grid> grids = tables.grids(n);
    importance.row(n, dense, out);
    for (size_t i = 0; i < out.size(); ++i) {
      const float error = grids[i / size].round(weight(n, i)) - weight(n, i);
      out[i] *= error * error;
    }
  });
}

}  // namespace nibble
