// The contract of what a quantizer's solvers do most: products of matrices, and trying out scales. Leaf header: plain
// structs only.
//
// Every operation is defined as a sequence of operations that are each rounded once, so that all instruction sets give
// identical bits. fma(a, b, c) = a * b + c rounded once. Single-threaded; no allocation.
#pragma once

#include <cstdint>

namespace nibble {

// A tile of a product in packed form, c += a b: element (i, j) of the R x C tile receives, for k ascending,
//   c[i][j] = fma(a[i][k], b[k][j], c[i][j])
// so that a product that is cut into tiles and runs of k, in any way, has the same bits as one that is not.
template <class T>
struct ProductArgs {
  const T* a;        // (i, k) at a[k * a_step + i]
  int64_t a_step;    // at least R
  const T* b;        // (k, j) at b[k * C + j]; at a 64-byte boundary
  T* c;              // (i, j) at c[i * c_stride + j]
  int64_t c_stride;  // at least C
  int64_t depth;     // how many k
};

// R and C belong to the kernel; R divides C, so that what is packed for one side can be read on the other (a_step = C).
inline constexpr int64_t kMostTile = 512;  // R * C
template <class T>
struct ProductTile {
  int64_t rows, columns;  // R, C
  void (*multiply)(const ProductArgs<T>&);
};

// to[i] = to[i] + (double)from[i]
struct WidenArgs {
  const float* from;
  double* to;
  int64_t count;
};

// to[i] = fma(factor, from[i], to[i])
struct AddScaledArgs {
  double factor;
  const double* from;
  double* to;
  int64_t count;
};

// How far a run of values lies from a grid of levels, in units of its scale: the sum of |v / scale - level|^norm.
//   q = v * inverse;   l = q raised to least (also NaN) and lowered to greatest, rounded to the nearest, ties to even
//   d = |q - l|;   term = d * d where norm is 2, else power(d)
// Value i goes to sum i % kCostSums; then sum i takes sum i + 16, then i + 8, 4, 2 and 1, and sum 0 is the result.
//   power(d), within 1e-5 of itself: with the bits of d as an integer,
//     e = (bits - 0x3F3504F3) >> 23 (arithmetic), m = the float with the bits - (e << 23), t = m - 1,
//     y = norm * fma(t, P(t), (float)e), raised to -126 and lowered to 126
//     n = (y + 12582912) - 12582912, f = y - n;   power = Q(f) with n added to its exponent
//   P = kLog2 and Q = kExp2 by Horner's rule in fma, coefficient i belonging to the i-th power. What is infinite or not
//   a number makes the sum anything.
inline constexpr int64_t kCostSums = 32;
// log2(1 + t) / t on [sqrt(1/2) - 1, sqrt(2) - 1], and 2^f on [-1/2, 1/2]: least-maximum fits.
inline constexpr float kLog2[8] = {1.44269478f,  -0.721357107f, 0.480939388f, -0.36008805f,
                                   0.286708355f, -0.25006175f,  0.236884028f, -0.14575775f};
inline constexpr float kExp2[6] = {1.00000012f,   0.693146944f,   0.240221202f,
                                   0.0555071346f, 0.00967554096f, 0.00132764666f};
struct CostArgs {
  const float* values;
  int64_t count;
  float inverse;          // 1 / scale
  float least, greatest;  // levels, whole numbers
  float norm;
};

struct SolveKernels {
  const char* isa;  // part of the kernels' names
  ProductTile<float> f32;
  ProductTile<double> f64;
  void (*widen)(const WidenArgs&);
  void (*add_scaled)(const AddScaledArgs&);
  float (*cost)(const CostArgs&);
};

}  // namespace nibble
