// How much memory is there.
#pragma once

#include <cstdint>

namespace nibble {

// Bytes that programs could take without swapping (MemAvailable of /proc/meminfo); INT64_MAX where it is not known.
int64_t available_memory();

}  // namespace nibble
