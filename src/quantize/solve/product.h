// c += sign * a b for plain row-major matrices, with one order of additions whatever the tiling: element (i, j)
// receives a[i][0] b[0][j], then a[i][1] b[1][j], and so on, each product and each sum rounded once. Solvers build
// everything from this, so their results depend neither on threads nor on block sizes nor on the compiler.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace nibble {

// A view of a matrix: element (i, j) lies at data[i * row + j * column]. The right factor and the result of a product
// have column == 1.
template <class T>
struct Strided {
  T* data = nullptr;
  int64_t row = 0, column = 1;
  T& at(int64_t i, int64_t j) const { return data[i * row + j * column]; }
  Strided shifted(int64_t i, int64_t j) const { return {data + i * row + j * column, row, column}; }
};

namespace product {

template <class T>
inline constexpr int64_t kVector = 16 / sizeof(T);

// A tile of R x 2 vectors stays in registers for the whole depth.
template <class T, int R>
void tile(Strided<T> c, Strided<const T> a, Strided<const T> b, int64_t depth, T sign) {
  typedef T Vector __attribute__((vector_size(16)));
  Vector sum[R][2];
  for (int i = 0; i < R; ++i) std::memcpy(sum[i], &c.at(i, 0), sizeof sum[i]);
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[2];
    std::memcpy(right, &b.at(k, 0), sizeof right);
    for (int i = 0; i < R; ++i) {
      const T left = sign * a.at(i, k);
      sum[i][0] += left * right[0];
      sum[i][1] += left * right[1];
    }
  }
  for (int i = 0; i < R; ++i) std::memcpy(&c.at(i, 0), sum[i], sizeof sum[i]);
}

template <class T>
void edge(Strided<T> c, Strided<const T> a, Strided<const T> b, int64_t rows, int64_t columns, int64_t depth, T sign) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < depth; ++k) {
      const T left = sign * a.at(i, k);
      for (int64_t j = 0; j < columns; ++j) c.at(i, j) += left * b.at(k, j);
    }
}

}  // namespace product

// c [rows x columns] += sign * a [rows x depth] b [depth x columns]; sign is 1 or -1.
template <class T>
void add_product(Strided<T> c, Strided<const T> a, Strided<const T> b, int64_t rows, int64_t columns, int64_t depth,
                 T sign) {
  if (depth == 0) return;  // the factors may then be empty, without an address
  constexpr int64_t kWide = 2 * product::kVector<T>;
  for (int64_t j = 0; j < columns; j += kWide) {
    const int64_t width = std::min(kWide, columns - j);
    int64_t i = 0;
    if (width == kWide) {
      for (; i + 4 <= rows; i += 4) product::tile<T, 4>(c.shifted(i, j), a.shifted(i, 0), b.shifted(0, j), depth, sign);
      for (; i < rows; ++i) product::tile<T, 1>(c.shifted(i, j), a.shifted(i, 0), b.shifted(0, j), depth, sign);
    }
    product::edge<T>(c.shifted(i, j), a.shifted(i, 0), b.shifted(0, j), rows - i, width, depth, sign);
  }
}

}  // namespace nibble
