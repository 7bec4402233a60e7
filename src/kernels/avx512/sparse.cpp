// Single weights beside a dense part (kernels/abi/linear.h): sixteen tokens side by side, or one.
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"

namespace nibble::avx512 {
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

// Row n's outputs of the tokens that are asked for, which lie in columns of y.
__m512 begin_row(const SparseArgs& args, int64_t n) {
  if (!args.begun) return _mm512_set1_ps(args.bias != nullptr ? args.bias[n] : 0.0f);
  alignas(64) float r[kLanes] = {};
  for (int64_t m = args.token_begin; m < args.token_end; ++m) r[m] = args.y[m * args.y_stride + n];
  return _mm512_load_ps(r);
}

void many_tokens(const SparseArgs& args) {
  int64_t i = args.n_begin == 0 ? 0 : args.row_ends[args.n_begin - 1];
  for (int64_t n = args.n_begin; n < args.n_end; ++n) {
    __m512 r = begin_row(args, n);
    for (; i < args.row_ends[n]; ++i) {
      const float* const x = args.x + int64_t{args.columns[i]} * kLanes;
      r = _mm512_fmadd_ps(_mm512_loadu_ps(x), _mm512_set1_ps(args.values[i]), r);
    }
    alignas(64) float out[kLanes];
    _mm512_store_ps(out, r);
    for (int64_t m = args.token_begin; m < args.token_end; ++m) args.y[m * args.y_stride + n] = out[m];
  }
}

}  // namespace

void sparse(const SparseArgs& args) { (args.alone ? one_token : many_tokens)(args); }

}  // namespace nibble::avx512
