#include "core/result.h"

#include <cstdio>
#include <cstdlib>

namespace nibble {

void broken_invariant(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "nibble: broken invariant `%s` at %s:%d\n", condition, file, line);
  std::abort();
}

}  // namespace nibble
