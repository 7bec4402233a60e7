// The contract of the attention kernels and the layout of cached keys and values. Leaf header: plain structs only.
//
// The cache of a sequence is a list of pages of 64 positions. The part of a page that belongs to one layer and one
// key and value head is, in 32 or 16-bit floats:
//   keys    [panel][head_dim][16]: panels of 16 positions, one position to a lane, so that a score is one lane and no
//           kernel adds across lanes
//   values  [position][value_stride]: one output to a lane; value_stride is head_dim rounded up to 16
// and in a block format the same with codes instead of floats, and scales, a byte each:
//   keys    blocks along head_dim:   key_scales [panel][ceil(head_dim / block)][16]
//   values  blocks along positions:  value_scales [64 / block][value_stride]; a block's codes and scales are there once
//           all its positions are
// and with E4M3 scales outer ones, a byte each: key_outers [panel][16], of a position; value_outers [64 / block]
// Sixteen codes of 7 or 8 bits take 16 bytes. Of shorter ones 8 bytes hold the upper 4 bits (all, where there are no
// more), byte i those of code i low and of code i + 8 high; the bits below follow, of 5-bit codes in 2 bytes, bit i
// that of code i, and of 6-bit codes in 4 bytes, byte i % 4 with those of code i at bit 2 * (i / 4). Scale byte e
// stands for 2^(e - 127), 255 for NaN; an E4M3 scale is that number, 127 for NaN, and its outer scale 2^(e - 127).
// Lanes and positions that nothing was stored in may hold anything: no result reads them.
//
// Attention of one query at position t, for the head's keys k and values v (the definition; every kernel computes
// exactly this sequence of float32 operations, so rows of all instruction sets give identical bits):
//   q    rotated by the angles of t, where there are angles (as below),
//        then rounded to its format in blocks along head_dim,
//        as kernels/abi/token.h defines
//   s[j] = scale * a + bias[j];  a = 0, for d ascending a = fma(q[d], k[j][d], a)           for j in [0, t]
//   p[j] = e(s[j] - max s)
//   total: 16 sums over the p[j] of equal j % 16, j ascending; then lane l += lane l + 8, + 4, + 2, + 1
//   p'   p rounded to its format in blocks of positions that begin at multiples of their size and end at t; with E4M3
//        scales `outer` is 2^-10 and `greatest` 4, so that 1 is 2^-10 * 2^8 * 4
//   y[d] = a / total;            a = 0, for j ascending a = fma(p'[j], v[j][d], a)
//   e(x) = 2^n * polynomial(r) with n = nearest integer (ties to even) to x * 1.44269504f,
//          r = fma(n, 2.12194440e-4f, fma(n, -0.693359375f, x)), by Horner and fma with coefficients 1/5040, 1/720,
//          1/120, 1/24, 1/6, 1/2, 1, 1; x below -87 counts as -87, where e is the smallest normal number
// Keys are rotated and then rounded to their format, each by itself. Values in blocks are first rounded to bfloat16;
// v[j] is the block format's where the block of j ends before the one that t is in, and that bfloat16 number in t's own
// block: nothing that a query reads depends on a later token. Values in a format with one scale for all have no blocks.
// The t of E4M3 scales belongs to one position's key, and to one block of values: all its positions and all outputs.
// Since nothing in it depends on other queries, the result depends neither on threads nor on how queries are grouped,
// how a prompt was cut into chunks, or what else is in the batch.
//
// Rotation of a row x of head_dim values (rotary embedding), with h = head_dim / 2:
//   x[i] = fma(x[i], cos[i], -(x[i + h] * sin[i]));   x[i + h] = fma(x[i + h], cos[i], x[i] * sin[i])
//
// Codes of a block of values x: with the scale s of kernels/abi/token.h, but where it is 2^e e = 0 for a block of zeros
// and e at most `most_exponent`, and u the level that x / s becomes there, the code is
//   integers    u, two's complement
//   minifloats  the sign, and of the float16 number |u| / unit the bits from half_shift on
//   powers      the sign, and the exponent's bits of the float32 number |u|, less 127 - 2^(bits - 1) + 1 (but 0 for 0)
// A block with a NaN or an infinity has codes of 0; without blocks that number alone has. A code is read as s * level,
// rounded once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/abi/token.h"

namespace nibble {

// What a row of kernels reads: keys and values in the same floats and nothing rounded, or anything.
enum class CacheType : uint8_t { f32, f16, bf16, mixed };

inline constexpr int64_t kPagePositions = 64, kKeyPanel = 16;

// How keys, or values, are stored.
enum class Stored : uint8_t { f32, f16, bf16, integers, minifloats, powers };
struct StoredFormat {
  Stored as = Stored::f32;
  // Of codes only:
  int code_bits = 0;      // what one takes: 4, 5, 6 or 8
  int64_t block = 0;      // codes that share a scale, of values a divisor of 64; 0: all have rounding.constant
  RoundArgs rounding{};   // x, y, count and block are not read
  int most_exponent = 0;  // of a scale
  int half_shift = 0;     // of minifloats, as `unit`, which is at least 1
  float unit = 1;
  float levels[16] = {};  // of codes of up to 4 bits

  bool codes() const { return as >= Stored::integers; }
  bool outer() const { return rounding.scale == BlockScale::e4m3; }
};

// Keys and values of one layer and head of one sequence. Formats and rounding are for CacheType::mixed.
struct CachedHead {
  CacheType type;
  int64_t head_dim, value_stride;
  std::byte* const* pages;  // pages[p] holds positions 64 p .. 64 p + 63 of everything
  int64_t keys, values;     // where in each page this head's begin, in bytes; multiples of 64
  int64_t key_scales, value_scales, key_outers, value_outers;
  const StoredFormat *key_format, *value_format;
  const RoundArgs *q, *p;  // null: not rounded; x, y and count are not read; the block of p divides 64
  // Values in blocks: of the last incomplete run of tail_rows positions (a multiple of all blocks, at most 64), as
  // bfloat16, position j in row j % tail_rows of [tail_rows][value_stride]: before the tokens that are being added, and
  // with them.
  const uint16_t* tail;
  uint16_t* next_tail;
  int64_t tail_rows;
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
  // At a 64-byte boundary, with 97 * value_stride + round_up(count, 12) * (2 * value_stride + 16 + round_up(n, 64))
  // floats, where n is the greatest position + 1.
  float* scratch;
  // Values in blocks: those of positions added_position .. + added_count - 1 as they come from the projection, of
  // head_dim numbers, `added_stride` apart. No query is at a position before them.
  const float* added = nullptr;
  int64_t added_stride = 0, added_position = 0, added_count = 0;
};

// Rotates (keys only), converts and stores tokens [0, count) at positions position .. position + count - 1. Values in
// blocks: position is the first of the tokens that are being added, or begins a page; next_tail is written by the call
// that stores the last of them, if it is not also the last of tail_rows.
struct CacheStoreArgs {
  CachedHead cache;
  RotaryTables angles;
  const float* keys;    // [count][key_stride], head_dim values each
  const float* values;  // [count][value_stride]
  int64_t key_stride, value_stride;
  int64_t position, count;
  float* scratch = nullptr;  // for CacheType::mixed, at a 64-byte boundary: 80 * value_stride floats
};

using AttentionKernel = void (*)(const AttentionArgs&);
using CacheStoreKernel = void (*)(const CacheStoreArgs&);

struct AttentionRow {
  const char* name;
  CacheType type;
  AttentionKernel kernel;
  CacheStoreKernel store;
};

}  // namespace nibble
