#include <cmath>
#include <initializer_list>

#include "core/half.h"
#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

struct Cached {
  const CachedHead& head;

  float read(int64_t page, int64_t bytes, int64_t at) const {
    const std::byte* from = head.pages[page] + bytes;
    return head.type == CacheType::f32 ? reinterpret_cast<const float*>(from)[at]
                                       : f16_to_f32(reinterpret_cast<const uint16_t*>(from)[at]);
  }
  void write(int64_t page, int64_t bytes, int64_t at, float value) const {
    std::byte* to = head.pages[page] + bytes;
    if (head.type == CacheType::f32) {
      reinterpret_cast<float*>(to)[at] = value;
    } else {
      reinterpret_cast<uint16_t*>(to)[at] = f32_to_f16(value);
    }
  }
  int64_t key_at(int64_t j, int64_t d) const {
    return (j % kPagePositions / kKeyPanel * head.head_dim + d) * kKeyPanel + j % kKeyPanel;
  }
  int64_t value_at(int64_t j, int64_t d) const { return j % kPagePositions * head.value_stride + d; }

  float key(int64_t j, int64_t d) const { return read(j / kPagePositions, head.keys, key_at(j, d)); }
  float value(int64_t j, int64_t d) const { return read(j / kPagePositions, head.values, value_at(j, d)); }
  void store(int64_t j, int64_t d, float key, float value) const {
    write(j / kPagePositions, head.keys, key_at(j, d), key);
    write(j / kPagePositions, head.values, value_at(j, d), value);
  }
};

// Value d of x, rotated to `position`.
float rotated(const float* x, int64_t d, const RotaryTables& angles, int64_t position, int64_t head_dim) {
  if (angles.cosines == nullptr) return x[d];
  const int64_t half = head_dim / 2, i = d % half;
  const float cosine = angles.cosines[position * half + i], sine = angles.sines[position * half + i];
  return d < half ? std::fma(x[i], cosine, -(x[i + half] * sine)) : std::fma(x[i + half], cosine, x[i] * sine);
}

float exponential(float x) {
  if (std::isnan(x)) return x;
  x = x < -87.0f ? -87.0f : x;
  const float n = std::nearbyint(x * 1.44269504f);
  float r = std::fma(n, -0.693359375f, x);
  r = std::fma(n, 2.12194440e-4f, r);
  float e = 1.0f / 5040;
  for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    e = std::fma(e, r, coefficient);
  return std::ldexp(e, static_cast<int>(n));
}

float score(const Cached& cached, const float* q, int64_t j, float scale, const float* bias) {
  float a = 0;
  for (int64_t d = 0; d < cached.head.head_dim; ++d) a = std::fma(q[d], cached.key(j, d), a);
  const float s = scale * a;
  return bias != nullptr ? s + bias[j] : s;
}

// Scores to weights; returns their sum.
float exponentiate(float* scores, int64_t count, float greatest) {
  float sums[kKeyPanel] = {};
  for (int64_t j = 0; j < count; ++j) {
    scores[j] = exponential(scores[j] - greatest);
    sums[j % kKeyPanel] += scores[j];
  }
  for (int64_t step = kKeyPanel / 2; step > 0; step /= 2)
    for (int64_t lane = 0; lane < step; ++lane) sums[lane] += sums[lane + step];
  return sums[0];
}

void attend(const AttentionArgs& args, const AttentionQuery& query) {
  const Cached cached{args.cache};
  const int64_t head_dim = args.cache.head_dim;
  float *const q = args.scratch, *const scores = q + head_dim;
  for (int64_t d = 0; d < head_dim; ++d) q[d] = rotated(query.q, d, args.angles, query.position, head_dim);
  float greatest = -INFINITY;
  for (int64_t j = 0; j <= query.position; ++j) {
    scores[j] = score(cached, q, j, args.scale, query.bias);
    greatest = scores[j] > greatest ? scores[j] : greatest;
  }
  const float total = exponentiate(scores, query.position + 1, greatest);
  for (int64_t d = 0; d < head_dim; ++d) {
    float a = 0;
    for (int64_t j = 0; j <= query.position; ++j) a = std::fma(scores[j], cached.value(j, d), a);
    query.y[d] = a / total;
  }
}

}  // namespace

void attention(const AttentionArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) attend(args, args.queries[i]);
}

void store_cache(const CacheStoreArgs& args) {
  const Cached cached{args.cache};
  for (int64_t token = 0; token < args.count; ++token) {
    const int64_t position = args.position + token;
    const float *keys = args.keys + token * args.key_stride, *values = args.values + token * args.value_stride;
    for (int64_t d = 0; d < args.cache.head_dim; ++d)
      cached.store(position, d, rotated(keys, d, args.angles, position, args.cache.head_dim), values[d]);
  }
}

}  // namespace nibble::ref
