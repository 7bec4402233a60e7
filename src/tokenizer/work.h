// What one call of encode() or decode() may spend on backtracking, and what it spent on merging.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nibble {

struct Work {
  // Linear in the text: a long run of blanks is given back byte by byte before the next alternative of the usual
  // patterns is tried, several times over; nothing honest needs more.
  explicit Work(size_t text_bytes) : retries_left(20'000'000 + 64 * static_cast<int64_t>(text_bytes)) {}

  int64_t retries_left;  // 0: patterns match nothing any more
  int64_t merge_steps = 0;
};

}  // namespace nibble
