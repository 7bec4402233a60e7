#include <nibble/nibble.h>

#include "api/guard.h"
#include "api/version.h"
#include "core/cpu.h"

namespace nibble {
namespace {

std::string compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#else
  return "GCC " __VERSION__;
#endif
}

}  // namespace

Result<VersionInfo> version() {
  return guarded([]() -> Result<VersionInfo> {
    NIBBLE_TRY(const Isa isa, selected_isa());
    return VersionInfo{NIBBLE_VERSION, NIBBLE_COMMIT, compiler(), to_string(isa), to_string(detected_isa())};
  });
}

}  // namespace nibble
