// Peaks of AVX-512: 16 sums in zmm0 .. zmm15, sources in zmm16 and zmm17. Inline assembly, so that no compiler moves a
// sum to memory. Only the time matters; the sums' values are anybody's.
#include "kernels/avx512/rows.h"

namespace nibble::avx512 {
namespace {

constexpr int64_t kSums = 16, kLoop = 8;  // instructions to a turn: kSums * kLoop
// Operations.
constexpr int64_t kInt8 = 2 * 64 * kSums * kLoop, kF32 = 2 * 16 * kSums * kLoop, kF64 = kF32 / 2;

// The sources are zeroed, since a denormal number would slow the floats down.
#define NIBBLE_PROBE(instruction)                                                                               \
  __asm__ volatile(                                                                                             \
      "vpxord %%zmm16, %%zmm16, %%zmm16\n vpxord %%zmm17, %%zmm17, %%zmm17\n"                                   \
      ".irp sum, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vpxord %%zmm\\sum, %%zmm\\sum, %%zmm\\sum\n .endr\n"   \
      "1:\n"                                                                                                    \
      ".rept 8\n .irp sum, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n " instruction                                \
      " %%zmm16, %%zmm17, %%zmm\\sum\n .endr\n .endr\n"                                                         \
      "dec %0\n jnz 1b\n"                                                                                       \
      : "+r"(turns)                                                                                             \
      :                                                                                                         \
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
        "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17")

void probe_int8(int64_t turns) { NIBBLE_PROBE("vpdpbusd"); }
void probe_f32(int64_t turns) { NIBBLE_PROBE("vfmadd231ps"); }
void probe_f64(int64_t turns) { NIBBLE_PROBE("vfmadd231pd"); }

#undef NIBBLE_PROBE

}  // namespace

const ProbeRow kProbes[] = {
    {Arithmetic::int8, "vpdpbusd zmm", kInt8, probe_int8},
    {Arithmetic::f32, "vfmadd231ps zmm", kF32, probe_f32},
    {Arithmetic::f64, "vfmadd231pd zmm", kF64, probe_f64},
    {},
};

}  // namespace nibble::avx512
