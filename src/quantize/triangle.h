// A symmetric or an upper triangular matrix [n][n] of doubles of which only the upper triangle is stored, row by row:
// (0, 0) .. (0, n - 1), (1, 1) .. (n - 1, n - 1). Half the memory of the whole, which for the wide inputs of a large
// model is what a run needs most of.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/buffer.h"

namespace nibble {

class Triangle {
 public:
  Triangle() = default;
  explicit Triangle(int64_t n) : n_(n), values_(n * (n + 1) / 2) {}

  static int64_t bytes(int64_t n) { return n * (n + 1) / 2 * static_cast<int64_t>(sizeof(double)); }
  int64_t width() const { return n_; }
  bool empty() const { return n_ == 0; }
  // Row i: row(i)[j] is element (i, j), for j from i on.
  double* row(int64_t i) { return values_.data() + offset(i); }
  const double* row(int64_t i) const { return values_.data() + offset(i); }
  // Element (i, j) of a symmetric matrix.
  double at(int64_t i, int64_t j) const { return i <= j ? row(i)[j] : row(j)[i]; }
  const AlignedBuffer<double>& values() const { return values_; }

 private:
  int64_t offset(int64_t i) const { return i * n_ - i * (i + 1) / 2; }  // of (i, 0), had the row begun there

  int64_t n_ = 0;
  AlignedBuffer<double> values_;
};

}  // namespace nibble
