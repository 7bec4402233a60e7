// Peaks of AVX2: 14 sums in ymm0 .. ymm13, sources in ymm14 and ymm15. Inline assembly, so that no compiler moves a sum
// to memory. Only the time matters; the sums' values are anybody's.
//
// AVX2 has no product of bytes with 32-bit sums. What comes first in any sequence that stands in for it is vpmaddubsw,
// pairs of products in 16 bits; the additions behind it are the kernel's to be clever about, so they are not counted.
#include "kernels/avx2/rows.h"

namespace nibble::avx2 {
namespace {

constexpr int64_t kSums = 14, kLoop = 8;  // instructions to a turn: kSums * kLoop
// Operations.
constexpr int64_t kInt8 = 2 * 32 * kSums * kLoop, kF32 = 2 * 8 * kSums * kLoop, kF64 = kF32 / 2;

// All registers are zeroed, since a denormal number would slow the floats down.
#define NIBBLE_PROBE(instruction)                                                                               \
  __asm__ volatile(                                                                                             \
      ".irp reg, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vpxor %%ymm\\reg, %%ymm\\reg, %%ymm\\reg\n .endr\n"    \
      "1:\n"                                                                                                    \
      ".rept 8\n .irp sum, 0,1,2,3,4,5,6,7,8,9,10,11,12,13\n " instruction                                      \
      " %%ymm14, %%ymm15, %%ymm\\sum\n .endr\n .endr\n"                                                         \
      "dec %0\n jnz 1b\n"                                                                                       \
      : "+r"(turns)                                                                                             \
      :                                                                                                         \
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
        "xmm12", "xmm13", "xmm14", "xmm15")

void probe_int8(int64_t turns) { NIBBLE_PROBE("vpmaddubsw"); }
void probe_f32(int64_t turns) { NIBBLE_PROBE("vfmadd231ps"); }
void probe_f64(int64_t turns) { NIBBLE_PROBE("vfmadd231pd"); }

#undef NIBBLE_PROBE

}  // namespace

const ProbeRow kProbes[] = {
    {Arithmetic::int8, "vpmaddubsw ymm", kInt8, probe_int8},
    {Arithmetic::f32, "vfmadd231ps ymm", kF32, probe_f32},
    {Arithmetic::f64, "vfmadd231pd ymm", kF64, probe_f64},
    {},
};

}  // namespace nibble::avx2
