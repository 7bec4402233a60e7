#include "core/cpu.h"

#include <cpuid.h>

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

constexpr bool all(unsigned value, unsigned mask) { return (value & mask) == mask; }

Isa detect() {
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0);
  if (!(one.ecx & bit_OSXSAVE)) return Isa::portable;
  const unsigned states = saved_states();
  const bool avx2 = all(states, 0x6) && all(one.ecx, bit_AVX | bit_FMA | bit_F16C) && all(seven.ebx, bit_AVX2);
  if (!avx2) return Isa::portable;
  const bool avx512 = all(states, 0xE6) && all(seven.ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ) &&
                      all(seven.ecx, bit_AVX512VNNI);
  return avx512 ? Isa::avx512vnni : Isa::avx2;
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
  }
  return "?";
}

Result<Isa> selected_isa() {
  const char* wanted = std::getenv("NIBBLE_ISA");
  if (wanted == nullptr || *wanted == '\0') return detected_isa();
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512vnni}) {
    if (to_string(isa) != wanted) continue;
    if (isa > detected_isa())
      return fail(ErrorCode::unsupported, "NIBBLE_ISA={}: this machine has {} at most", wanted,
                  to_string(detected_isa()));
    return isa;
  }
  return fail(ErrorCode::unsupported, "NIBBLE_ISA={}: expected portable, avx2 or avx512vnni", wanted);
}

}  // namespace nibble
