#include "bench/reading.h"

#include <cstring>

namespace nibble::bench {
namespace {

// `ahead`: how many bytes before its turn a line is asked for, in each stream; 0: it is not. One stream asks for it in
// the first-level cache, several in the second.
template <int64_t streams, int64_t ahead>
uint64_t read_streams(const std::byte* from) {
  constexpr int64_t kLength = kReadBytes / streams;
  uint64_t sum = 0;
  for (int64_t at = 0; at < kLength; at += kLine)
    for (int64_t stream = 0; stream < streams; ++stream) {
      const std::byte* const line = from + stream * kLength + at;
      if constexpr (ahead > 0) __builtin_prefetch(line + ahead, 0, streams == 1 ? 3 : 2);
      uint64_t word;
      std::memcpy(&word, line, sizeof word);
      sum += word;
    }
  return sum;
}

constexpr Reader kReaders[] = {
    read_streams<1, 0>,    read_streams<4, 0>,    read_streams<16, 0>,
    read_streams<1, 2048>, read_streams<4, 1024>, read_streams<16, 1024>,
};

}  // namespace

std::span<const Reader> readers() { return kReaders; }

}  // namespace nibble::bench
