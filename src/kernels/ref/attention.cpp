#include <cmath>

#include "core/half.h"
#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

float cached(const AttentionArgs& args, const void* cache, int64_t at) {
  return args.type == CacheType::f32 ? static_cast<const float*>(cache)[at]
                                     : f16_to_f32(static_cast<const uint16_t*>(cache)[at]);
}

double score(const AttentionArgs& args, int64_t j) {
  double dot = 0;
  for (int64_t d = 0; d < args.head_dim; ++d)
    dot += static_cast<double>(args.q[d]) * cached(args, args.keys, j * args.head_dim + d);
  return args.scale * dot + (args.bias != nullptr ? args.bias[j] : 0.0f);
}

}  // namespace

void attention(const AttentionArgs& args) {
  double greatest = -INFINITY;
  for (int64_t j = 0; j <= args.position; ++j) {
    const double s = score(args, j);
    args.scores[j] = static_cast<float>(s);
    greatest = s > greatest ? s : greatest;
  }
  double total = 0;
  for (int64_t j = 0; j <= args.position; ++j) {
    args.scores[j] = std::exp(args.scores[j] - static_cast<float>(greatest));
    total += args.scores[j];
  }
  for (int64_t d = 0; d < args.head_dim; ++d) {
    double sum = 0;
    for (int64_t j = 0; j <= args.position; ++j)
      sum += static_cast<double>(args.scores[j]) * cached(args, args.values, j * args.head_dim + d);
    args.y[d] = static_cast<float>(sum / total);
  }
}

}  // namespace nibble::ref
