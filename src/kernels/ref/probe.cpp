// Peaks of what every x86-64 processor has. SSE2 knows neither fused multiply-adds nor bytes: a multiply-add is two
// instructions, and integers are multiplied in 16 bits. 7 products in xmm7 .. xmm13 beside 7 sums in xmm0 .. xmm6.
#include "kernels/ref/rows.h"

namespace nibble::ref {
namespace {

constexpr int64_t kSums = 7, kLoop = 8;  // multiply-adds to a turn: kSums * kLoop
// Operations.
constexpr int64_t kInt8 = 2 * 8 * kSums * kLoop, kF32 = 2 * 4 * kSums * kLoop, kF64 = kF32 / 2;

#define NIBBLE_PROBE(multiply, add)                                                                             \
  __asm__ volatile(                                                                                             \
      ".irp reg, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n pxor %%xmm\\reg, %%xmm\\reg\n .endr\n"                 \
      "1:\n"                                                                                                    \
      ".rept 8\n .irp product, 7,8,9,10,11,12,13\n " multiply                                                   \
      " %%xmm14, %%xmm\\product\n .endr\n"                                                                      \
      ".irp sum, 0,1,2,3,4,5,6\n " add                                                                          \
      " %%xmm15, %%xmm\\sum\n .endr\n .endr\n"                                                                  \
      "dec %0\n jnz 1b\n"                                                                                       \
      : "+r"(turns)                                                                                             \
      :                                                                                                         \
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
        "xmm12", "xmm13", "xmm14", "xmm15")

void probe_int8(int64_t turns) { NIBBLE_PROBE("pmaddwd", "paddd"); }
void probe_f32(int64_t turns) { NIBBLE_PROBE("mulps", "addps"); }
void probe_f64(int64_t turns) { NIBBLE_PROBE("mulpd", "addpd"); }

#undef NIBBLE_PROBE

}  // namespace

const ProbeRow kProbes[] = {
    {Arithmetic::int8, "pmaddwd xmm", kInt8, probe_int8},
    {Arithmetic::f32, "mulps addps xmm", kF32, probe_f32},
    {Arithmetic::f64, "mulpd addpd xmm", kF64, probe_f64},
    {},
};

}  // namespace nibble::ref
