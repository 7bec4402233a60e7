// Where the tiny trained models and their golden data lie, for the tests that need them: beside the repository, or
// where NIBBLE_SHARED says.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace nibble {

inline std::filesystem::path shared_material() {
  const char* named = std::getenv("NIBBLE_SHARED");
  return named != nullptr ? std::filesystem::path(named) : std::filesystem::path(NIBBLE_SOURCE_DIR) / ".." / "shared";
}

}  // namespace nibble

#define NIBBLE_SKIP_WITHOUT_SHARED(path)                                                                       \
  do {                                                                                                         \
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "needs " << (path).string() << " (set NIBBLE_SHARED)"; \
  } while (false)
