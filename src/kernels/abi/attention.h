// The contract of the attention kernels. Leaf header: plain structs only.
//
// One query row against the cached keys and values of its sequence, for one query head:
//   s[j] = scale * (q . k[j]) + bias[j]      for j in [0, position]     (bias: ALiBi; none otherwise)
//   p[j] = exp(s[j] - max s);   y = (sum_j p[j] v[j]) / sum_j p[j]
// Sums run over j in ascending order and in blocks at fixed positions, so that the result depends neither on
// threads nor on how a prompt was cut into chunks.
#pragma once

#include <cstdint>

namespace nibble {

enum class CacheType : uint8_t { f32, f16 };

struct AttentionArgs {
  CacheType type;
  const float* q;      // [head_dim]
  const void* keys;    // [position + 1][head_dim], contiguous
  const void* values;  // [position + 1][head_dim], contiguous
  int64_t head_dim;
  int64_t position;  // of the query: it sees keys 0..position
  float scale;
  const float* bias;  // [position + 1], or null. A table, since ALiBi as published is rounded to bfloat16
  float* scores;      // scratch, position + 1 entries (rounded up to 16)
  float* y;           // [head_dim]
};

using AttentionKernel = void (*)(const AttentionArgs&);

struct AttentionRow {
  const char* name;
  CacheType type;
  double tolerance;  // largest difference from the reference, relative to the largest |value|
  AttentionKernel kernel;
};

}  // namespace nibble
