// Single weights beside a dense part (kernels/abi/linear.h): sixteen tokens side by side, or one.
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"

namespace nibble::avx2 {
namespace {

void one_token(const SparseArgs& args) {
  int64_t i = args.n_begin == 0 ? 0 : args.row_ends[args.n_begin - 1];
  for (int64_t n = args.n_begin; n < args.n_end; ++n) {
    __m128 r = _mm_set_ss(args.begun ? args.y[n] : args.bias != nullptr ? args.bias[n] : 0.0f);
    for (; i < args.row_ends[n]; ++i)
      r = _mm_fmadd_ss(_mm_load_ss(args.x + args.columns[i]), _mm_load_ss(args.values + i), r);
    args.y[n] = _mm_cvtss_f32(r);
  }
}

void many_tokens(const SparseArgs& args) {
  int64_t i = args.n_begin == 0 ? 0 : args.row_ends[args.n_begin - 1];
  for (int64_t n = args.n_begin; n < args.n_end; ++n) {
    alignas(32) float out[kLanes] = {};  // of the tokens that are asked for, which lie in columns of y
    for (int64_t m = args.token_begin; m < args.token_end; ++m)
      out[m] = args.begun ? args.y[m * args.y_stride + n] : args.bias != nullptr ? args.bias[n] : 0.0f;
    __m256 r[kHalves] = {_mm256_load_ps(out), _mm256_load_ps(out + 8)};
    for (; i < args.row_ends[n]; ++i) {
      const float* const x = args.x + int64_t{args.columns[i]} * kLanes;
      const __m256 value = _mm256_broadcast_ss(args.values + i);
      for (int h = 0; h < kHalves; ++h) r[h] = _mm256_fmadd_ps(_mm256_loadu_ps(x + 8 * h), value, r[h]);
    }
    for (int h = 0; h < kHalves; ++h) _mm256_store_ps(out + 8 * h, r[h]);
    for (int64_t m = args.token_begin; m < args.token_end; ++m) args.y[m * args.y_stride + n] = out[m];
  }
}

}  // namespace

void sparse(const SparseArgs& args) { (args.alone ? one_token : many_tokens)(args); }

}  // namespace nibble::avx2
