// Peaks of the tile registers: 6 sums in tmm0 .. tmm5, sources in tmm6 and tmm7; a product takes 16 cycles to issue and
// 52 to finish. Only the time matters; the sums' values are anybody's.
#include "kernels/amx/intrinsics.h"
#include "kernels/amx/rows.h"

namespace nibble::amx {
namespace {

constexpr int64_t kSums = 6, kLoop = 4;  // instructions to a turn: kSums * kLoop
constexpr int64_t kProducts = 16 * 16;   // of a tile, each over 64 bytes
constexpr int64_t kInt8 = 2 * kProducts * 64 * kSums * kLoop, kBf16 = kInt8 / 2;

// All eight registers 16 rows of 64 bytes. A constant: the intrinsic of g++ 12 tells the compiler of the first eight
// bytes it reads only, so that the rest of a local one may never be written.
struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr Configuration kConfiguration;

#define NIBBLE_PROBE(instruction)                      \
  _tile_loadconfig(&kConfiguration);                   \
  __asm__ volatile(                                    \
      "1:\n"                                           \
      ".rept 4\n .irp sum, 0,1,2,3,4,5\n " instruction \
      " %%tmm7, %%tmm6, %%tmm\\sum\n .endr\n .endr\n"  \
      "dec %0\n jnz 1b\n"                              \
      : "+r"(turns)                                    \
      :                                                \
      : "cc");                                         \
  _tile_release()

void probe_int8(int64_t turns) { NIBBLE_PROBE("tdpbusd"); }
void probe_bf16(int64_t turns) { NIBBLE_PROBE("tdpbf16ps"); }

#undef NIBBLE_PROBE

}  // namespace

const ProbeRow kProbes[] = {
    {Arithmetic::int8, "tdpbusd tmm", kInt8, probe_int8},
    {Arithmetic::bf16, "tdpbf16ps tmm", kBf16, probe_bf16},
    {},
};

}  // namespace nibble::amx
