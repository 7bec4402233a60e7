// The contract of the attention kernels and the layout of cached keys and values. Leaf header: plain structs only.
//
// The cache of a sequence is a list of pages of 64 positions. The part of a page that belongs to one layer and one
// key and value head is, in f32 or f16:
//   keys    [panel][head_dim][16]: panels of 16 positions, one position to a lane, so that a score is one lane and no
//           kernel adds across lanes
//   values  [position][value_stride]: one output to a lane; value_stride is head_dim rounded up to 16
// Lanes and positions that nothing was stored in may hold anything: no result reads them.
//
// Attention of one query at position t, for the head's keys k and values v (the definition; every kernel computes
// exactly this sequence of float32 operations, so rows of all instruction sets give identical bits):
//   q    rotated by the angles of t, where there are angles (as below)
//   s[j] = scale * a + bias[j];  a = 0, for d ascending a = fma(q[d], k[j][d], a)           for j in [0, t]
//   p[j] = e(s[j] - max s)
//   y[d] = a / total;            a = 0, for j ascending a = fma(p[j], v[j][d], a)
//   total: 16 sums over the p[j] of equal j % 16, j ascending; then lane l += lane l + 8, + 4, + 2, + 1
//   e(x) = 2^n * polynomial(r) with n = nearest integer (ties to even) to x * 1.44269504f,
//          r = fma(n, 2.12194440e-4f, fma(n, -0.693359375f, x)), by Horner and fma with coefficients 1/5040, 1/720,
//          1/120, 1/24, 1/6, 1/2, 1, 1; x below -87 counts as -87, where e is the smallest normal number
// Since nothing in it depends on other queries, the result depends neither on threads nor on how queries are grouped,
// how a prompt was cut into chunks, or what else is in the batch.
//
// Rotation of a row x of head_dim values (rotary embedding), with h = head_dim / 2:
//   x[i] = fma(x[i], cos[i], -(x[i + h] * sin[i]));   x[i + h] = fma(x[i + h], cos[i], x[i] * sin[i])
#pragma once

#include <cstddef>
#include <cstdint>

namespace nibble {

enum class CacheType : uint8_t { f32, f16 };

inline constexpr int64_t kPagePositions = 64, kKeyPanel = 16;

// Keys and values of one layer and head of one sequence.
struct CachedHead {
  CacheType type;
  int64_t head_dim, value_stride;
  std::byte* const* pages;  // pages[p] holds positions 64 p .. 64 p + 63 of everything
  int64_t keys, values;     // where in each page this head's begin, in bytes; multiples of 64
};

// Tables [position][head_dim / 2] of what keys and queries are rotated by; null for models that do not rotate.
struct RotaryTables {
  const float* cosines;
  const float* sines;
};

struct AttentionQuery {
  const float* q;     // [head_dim], not yet rotated
  float* y;           // [head_dim]; may be q
  const float* bias;  // [position + 1], or null. A table, since ALiBi as published is rounded to bfloat16
  int64_t position;   // it sees 0 .. position, all of which are stored
};

// Up to kMostQueries queries against one head. Fastest when positions ascend and differ little.
inline constexpr int64_t kMostQueries = 48;
struct AttentionArgs {
  CachedHead cache;
  RotaryTables angles;
  float scale;
  const AttentionQuery* queries;
  int64_t count;
  // At a 64-byte boundary, with 33 * value_stride + round_up(count, 12) * (2 * value_stride + 16 + round_up(n, 64))
  // floats, where n is the greatest position + 1.
  float* scratch;
};

// Rotates (keys only), converts and stores tokens [0, count) at positions position .. position + count - 1.
struct CacheStoreArgs {
  CachedHead cache;
  RotaryTables angles;
  const float* keys;    // [count][key_stride], head_dim values each
  const float* values;  // [count][value_stride]
  int64_t key_stride, value_stride;
  int64_t position, count;
};

using AttentionKernel = void (*)(const AttentionArgs&);
using CacheStoreKernel = void (*)(const CacheStoreArgs&);

struct AttentionRow {
  const char* name;
  CacheType type;
  double tolerance;  // largest difference from the reference, relative to the largest |value|; 0: identical bits
  AttentionKernel kernel;
  CacheStoreKernel store;
};

}  // namespace nibble
