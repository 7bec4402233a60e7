#include "quantize/solve/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/checked.h"
#include "quantize/solve/product.h"

namespace nibble {
namespace {

constexpr int64_t kPanel = 64;

using Matrix = Strided<double>;
using View = Strided<const double>;

View view(Matrix m) { return {m.data, m.row, m.column}; }

// The unblocked factorisation of a diagonal block.
bool factor_diagonal(Matrix a, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    double pivot = a.at(j, j);
    for (int64_t k = 0; k < j; ++k) pivot -= a.at(j, k) * a.at(j, k);
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    a.at(j, j) = std::sqrt(pivot);
    for (int64_t i = j + 1; i < n; ++i) {
      double sum = a.at(i, j);
      for (int64_t k = 0; k < j; ++k) sum -= a.at(i, k) * a.at(j, k);
      a.at(i, j) = sum / a.at(j, j);
    }
  }
  return true;
}

// One row below a factored diagonal block: x L' = row, in place.
void solve_row(View diagonal, double* row, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    double sum = row[j];
    for (int64_t k = 0; k < j; ++k) sum -= row[k] * diagonal.at(j, k);
    row[j] = sum / diagonal.at(j, j);
  }
}

}  // namespace

bool cholesky(double* data, int64_t n, ThreadPool& pool) {
  const Matrix a{data, n, 1};
  std::vector<double> transposed(static_cast<size_t>(kPanel * n));
  for (int64_t begin = 0; begin < n; begin += kPanel) {
    const int64_t width = std::min(kPanel, n - begin), end = begin + width, rest = n - end;
    const Matrix diagonal = a.shifted(begin, begin);
    if (!factor_diagonal(diagonal, width)) return false;
    if (rest == 0) break;
    const Matrix panel = a.shifted(end, begin);
    const Matrix across{transposed.data(), rest, 1};
    pool.run(ceil_div(rest, kPanel), [&](int64_t task) {
      for (int64_t i = task * kPanel; i < std::min(rest, (task + 1) * kPanel); ++i) {
        solve_row(view(diagonal), &panel.at(i, 0), width);
        for (int64_t k = 0; k < width; ++k) across.at(k, i) = panel.at(i, k);
      }
    });
    pool.run(ceil_div(rest, kPanel), [&](int64_t task) {
      const int64_t i = task * kPanel, rows = std::min(kPanel, rest - i);
      add_product(a.shifted(end + i, end), view(panel.shifted(i, 0)), view(across), rows, i + rows, width, -1.0);
    });
  }
  return true;
}

AlignedBuffer<double> invert_lower(const double* lower, int64_t n, ThreadPool& pool) {
  AlignedBuffer<double> inverse(n * n);
  const View l{lower, n, 1};
  const Matrix x{inverse.data(), n, 1};
  // Columns of the inverse are independent: each task solves L X = I for a few of them by forward substitution.
  pool.run(ceil_div(n, kPanel), [&](int64_t task) {
    const int64_t first = task * kPanel, columns = std::min(kPanel, n - first);
    for (int64_t i = first; i < first + columns; ++i) x.at(i, i) = 1;
    for (int64_t begin = first; begin < n; begin += kPanel) {
      const int64_t rows = std::min(kPanel, n - begin);
      add_product(x.shifted(begin, first), l.shifted(begin, first), view(x.shifted(first, first)), rows, columns,
                  begin - first, -1.0);
      for (int64_t i = begin; i < begin + rows; ++i) {
        add_product(x.shifted(i, first), l.shifted(i, begin), view(x.shifted(begin, first)), 1, columns, i - begin,
                    -1.0);
        for (int64_t j = first; j < first + columns; ++j) x.at(i, j) /= l.at(i, i);
      }
    }
  });
  return inverse;
}

AlignedBuffer<double> upper_factor_of_inverse(AlignedBuffer<double> h, int64_t n, ThreadPool& pool) {
  std::reverse(h.data(), h.data() + n * n);  // reverses rows and columns: upper becomes lower
  if (!cholesky(h.data(), n, pool)) return {};
  AlignedBuffer<double> inverse = invert_lower(h.data(), n, pool);
  std::reverse(inverse.data(), inverse.data() + n * n);
  return inverse;
}

}  // namespace nibble
