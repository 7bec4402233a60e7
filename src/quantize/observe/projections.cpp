#include "quantize/observe/projections.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace nibble {
namespace {

float largest(const float* x, int64_t count, float most) {
  for (int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(x[i]));
  return most;
}

// Of heads that are rotated by the angles of a position.
float largest_rotated(const float* x, int64_t heads, int64_t head_dim, const float* cosines, const float* sines,
                      float most) {
  const int64_t half = head_dim / 2;
  for (int64_t head = 0; head < heads; ++head, x += head_dim)
    for (int64_t i = 0; i < half; ++i) {
      const float low = x[i] * cosines[i] - x[i + half] * sines[i], high = x[i + half] * cosines[i] + x[i] * sines[i];
      most = std::max({most, std::fabs(low), std::fabs(high)});
    }
  return most;
}

}  // namespace

void observe_projections(const Spec& spec, const Projections& from, const PositionTables& positions, int64_t samples,
                         int64_t length, AttentionMagnitudes& most, ThreadPool& pool) {
  const bool rotates = spec.positions == Positions::rotary;
  std::vector<AttentionMagnitudes> found(static_cast<size_t>(samples), most);
  pool.run(samples, [&](int64_t sample) {
    AttentionMagnitudes& of_sample = found[static_cast<size_t>(sample)];
    for (int64_t position = 0; position < length; ++position) {
      const int64_t row = sample * length + position, angle = position * (spec.head_dim / 2);
      const auto of_heads = [&](const float* x, int64_t heads, float before) {
        if (!rotates) return largest(x, heads * spec.head_dim, before);
        return largest_rotated(x, heads, spec.head_dim, positions.cosines() + angle, positions.sines() + angle, before);
      };
      of_sample.q = of_heads(from.q + row * from.q_stride, spec.heads, of_sample.q);
      of_sample.k = of_heads(from.k + row * from.k_stride, spec.kv_heads, of_sample.k);
      of_sample.v = largest(from.v + row * from.v_stride, spec.kv_heads * spec.head_dim, of_sample.v);
    }
  });
  for (const AttentionMagnitudes& one : found)
    most = {std::max(most.q, one.q), std::max(most.k, one.k), std::max(most.v, one.v)};
}

}  // namespace nibble
