// How many threads a call of the public interface uses.
#pragma once

#include "core/result.h"

namespace nibble {

// `asked` itself, or for 0 the value of NIBBLE_THREADS, or else one per usable processor. `usage` outside 1..1024.
Result<int> thread_count(int asked);

}  // namespace nibble
