// The contract of what is done to a token's row of values between the linear layers: norms, activation functions,
// and the split, rotation and quantization of a layer's input. Leaf header: plain structs only.
//
// Every operation is defined as a sequence of additions, multiplications, fused multiply-adds, divisions and roots,
// each rounded once, so that all instruction sets give identical bits. fma(a, b, c) = a * b + c rounded once.
// Single-threaded; no allocation.
#pragma once

#include <cstdint>

namespace nibble {

// y = (x - mean) / sqrt(mean((x - mean)^2) + eps) * gain + bias, the mean being 0 unless `centred`; y may be x.
// Sums are in double, in kNormSums interleaved ones: value k goes to sum k % kNormSums, as s = fma(d, d, s) with
// d = x[k] - mean, or s = s + x[k] for the mean itself; then sum i takes sum i + 16, then i + 8, 4, 2 and 1.
//   inverse = (float)(1 / sqrt(sum / width + eps));   v = (x - (float)mean) * inverse;   y = v * gain, or with a bias
//   fma(v, gain, bias)
inline constexpr int64_t kNormSums = 32;
struct NormArgs {
  const float* x;  // [width]
  int64_t width;
  bool centred;
  const float* gain;  // [width], or null: ones
  const float* bias;  // [width], or null: zeros
  double eps;
  float* y;
};
using NormKernel = void (*)(const NormArgs&);

// y = f(x), or f(x) * factor; y may be x or factor. All within a few units in the last place.
//   e(x), the exponential: x is raised to -87 and lowered to 89 (NaN stays), t = fma(x, 1.44269504, 12582912) has the
//     integer n = t - 12582912 in its low bits, r = fma(n, 2.12194440e-4, fma(n, -0.693359375, x)); the Taylor
//     polynomial p of degree 7 by Horner's rule in fma; p * 2^n.
//   silu:       x / (1 + e(-x))
//   gelu_tanh:  x / (1 + e(-1.59576912160573 * x * fma(0.044715 x, x, 1)))   the products from left to right
//   gelu:       fma(-|x|, q, max(x, 0)) with q = e(-x^2 / 2) * w P(w), the normal distribution below -|x|:
//               w = 1 / fma(|x|, 1/4, 1), P = kNormalTail by Horner's rule in fma
//   relu:       max(x, 0); -0 and NaN stay
enum class Function : uint8_t { silu, gelu, gelu_tanh, relu };
struct ActivateArgs {
  Function function;
  const float* x;
  const float* factor;  // or null
  float* y;
  int64_t count;
};
using ActivateKernel = void (*)(const ActivateArgs&);

// erfc(a / sqrt(2)) / 2 = exp(-a^2 / 2) w P(w) for a >= 0 within 1.1e-8 of itself: a least-maximum fit, P[i] times w^i.
inline constexpr float kNormalTail[10] = {0.0997412875f, 0.099616915f,   0.0945145115f, 0.0765362084f,  0.0738862157f,
                                          0.0359128229f, 0.00117847079f, 0.0716614947f, -0.0711367726f, 0.0180888474f};

// Copies the kept columns of a row and all others, which stay in order, apart.
inline constexpr int64_t kSplitRoom = 32;
struct SplitArgs {
  const float* x;  // [columns]
  int64_t columns;
  const int32_t* kept_columns;  // ascending
  int64_t kept_count;
  float* dense;  // columns - kept_count values; up to kSplitRoom more may be written
  float* kept;   // [kept_count]
};
using SplitKernel = void (*)(const SplitArgs&);

// The block-wise Hadamard rotation of a row; y may be x. It is cut into pieces of `block` values, a power of two, and
// at the end into the largest powers of two that fit. In a piece of p values, for h = 1, 2, 4 .. p / 2 every pair of
// (a, b) = (y[i], y[i + h]) without the bit h in i becomes (a + b, a - b); then each value is multiplied by 1 / sqrt(p)
// rounded to float32: a power of two, times kRootOfHalf where p is no square.
inline constexpr float kRootOfHalf = 0.70710678f;
struct RotateArgs {
  const float* x;  // [count]
  int64_t count, block;
  float* y;  // [count]
};
using RotateKernel = void (*)(const RotateArgs&);

// Quantizes rows of float input: finds their range, writes codes, scale, zero and sums as format/grid.h defines them.
// Padding between groups gets code 0. A token with a NaN gets a NaN scale, so that the NaN reaches its outputs instead
// of disappearing.
struct QuantizeArgs {
  const float* x;  // [M][x_stride]
  int64_t x_stride, m_begin, m_end;
  int64_t columns;
  int bits;  // 2..8
  bool asymmetric;
  int64_t group_size, groups, group_stride;  // elements per group, G, bytes per padded group (multiple of 8)
  uint8_t* codes;
  int64_t stride;  // from token to token; at least G * group_stride
  float* scales;   // [M]
  int32_t* zeros;  // [M]
  int32_t* sums;   // [G][sum_stride]: by token
  int64_t sum_stride;
};
using QuantizeKernel = void (*)(const QuantizeArgs&);

// Rounds a row to a block format (format/block_scale.h) and writes what its codes stand for, which bfloat16 holds
// exactly. Blocks of `block` values, the last one may be shorter, have a scale s of their own:
//   constant   `constant`
//   power      2^e with e = exponent of the block's largest |x|, less `shift`, one more where the 23 bits of its
//              mantissa are at least up_from, one less where they are below down_below; -127 <= e <= 127
//   e4m3       the block's largest |x| over greatest * t as an E4M3 number of at least 2^-9 (1 for a block of zeros),
//              times t: `outer`, or where that is 0 the row's largest |x| over 448 * greatest, rounded up to a power of
//              two of -100 .. 100 (1 for a row of zeros, or with a NaN or an infinity)
// and u = x / s becomes the nearest level:
//   to_even, away   |u| of exponent e to a multiple of 2^(max(e, least_exponent) - mantissa_bits), ties so; then at
//   least
//                   `least` and at most `greatest`
//   powers          to 2^e, or 2^(e+1) where the mantissa exceeds the square root of two; 0 where |u| is at most half
//   of
//                   2^least_exponent; at most `greatest`
// A block with a NaN or an infinity becomes NaN.
enum class Rounding : uint8_t { to_even, away, powers };
enum class BlockScale : uint8_t { constant, power, e4m3 };
struct RoundArgs {
  const float* x;
  int64_t count, block;
  Rounding rounding;
  int mantissa_bits, least_exponent;
  float least, greatest;
  BlockScale scale;
  float constant;
  int shift;
  uint32_t up_from, down_below;
  float outer;
  uint16_t* y;
};
using RoundKernel = void (*)(const RoundArgs&);

// The same rounding, written as integers with a scale for each block: the records of kernels/abi/linear.h. An integer
// is a level times 2^shift. With
//   power   E the greatest exponent of the row's blocks: the scale of a record is 2^(e - E) and that of the row
//           2^(E - shift). A block with e - E < -126 counts as zeros, with the scale 1.
//   e4m3    the scale of a record is the E4M3 number (1 for a block of zeros) and that of the row 2^-shift times t
// A row with a NaN or an infinity has the scale NaN.
struct EncodeArgs {
  RoundArgs rounding;  // `y` is not used, `outer` is 0; blocks are a multiple of 16 values, up to 256
  int shift;
  uint8_t* records;  // [ceil(count / block)][block + sizeof(BlockTail)]
  float* scale;      // of the row
};
using EncodeKernel = void (*)(const EncodeArgs&);

inline constexpr uint32_t kRootOfTwo = 0x3504F3;  // mantissa

struct TokenKernels {
  const char* isa;  // part of the kernels' names: quantize__avx512
  NormKernel norm;
  ActivateKernel activate;
  SplitKernel split;
  QuantizeKernel quantize;
  RoundKernel round;
  EncodeKernel encode;
  RotateKernel rotate;
};

}  // namespace nibble
