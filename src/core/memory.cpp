#include "core/memory.h"

#include <cinttypes>
#include <cstdio>
#include <memory>

namespace nibble {

int64_t available_memory() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/meminfo", "r"), std::fclose);
  if (!file) return INT64_MAX;
  char line[256];
  int64_t kib = 0;
  while (std::fgets(line, sizeof line, file.get()) != nullptr)
    if (std::sscanf(line, "MemAvailable: %" SCNd64, &kib) == 1 && kib >= 0 && kib <= INT64_MAX / 1024)
      return kib * 1024;
  return INT64_MAX;
}

}  // namespace nibble
