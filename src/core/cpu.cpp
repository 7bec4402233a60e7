#include "core/cpu.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace nibble {
namespace {

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

// The register states that the operating system saves (XCR0); reading it needs OSXSAVE.
unsigned saved_states() {
  unsigned eax, edx;
  __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return eax;
}

// Linux saves the tile registers only of processes that asked for it; threads inherit the permission.
bool tiles_permitted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

constexpr bool all(unsigned value, unsigned mask) { return (value & mask) == mask; }

Isa detect() {
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0);
  if (!(one.ecx & bit_OSXSAVE)) return Isa::portable;
  const unsigned states = saved_states();
  const bool avx2 = all(states, 0x6) && all(one.ecx, bit_AVX | bit_FMA | bit_F16C) && all(seven.ebx, bit_AVX2);
  if (!avx2) return Isa::portable;
  const bool avx512 = all(states, 0xE6) && all(seven.ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ) &&
                      all(seven.ecx, bit_AVX512VNNI);
  if (!avx512) return Isa::avx2;
  constexpr unsigned kBf16 = 1u << 5, kTileStates = 3u << 17, kTiles = 1u << 22 | 1u << 24 | 1u << 25;
  if (!all(cpuid(7, 1).eax, kBf16)) return Isa::avx512vnni;
  return all(states, kTileStates) && all(seven.edx, kTiles) && tiles_permitted() ? Isa::amx : Isa::avx512bf16;
}

}  // namespace

Isa detected_isa() {
  static const Isa isa = detect();
  return isa;
}

std::string to_string(Isa isa) {
  switch (isa) {
    case Isa::portable: return "portable";
    case Isa::avx2: return "avx2";
    case Isa::avx512vnni: return "avx512vnni";
    case Isa::avx512bf16: return "avx512bf16";
    case Isa::amx: return "amx";
  }
  return "?";
}

Result<Isa> selected_isa() {
  const char* wanted = std::getenv("NIBBLE_ISA");
  if (wanted == nullptr || *wanted == '\0') return detected_isa();
  for (Isa isa : kAllIsas) {
    if (to_string(isa) != wanted) continue;
    if (isa > detected_isa())
      return fail(ErrorCode::unsupported, "NIBBLE_ISA={}: this machine has {} at most", wanted,
                  to_string(detected_isa()));
    return isa;
  }
  return fail(ErrorCode::unsupported, "NIBBLE_ISA={}: expected portable, avx2, avx512vnni, avx512bf16 or amx", wanted);
}

}  // namespace nibble
