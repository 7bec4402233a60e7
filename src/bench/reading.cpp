#include "bench/reading.h"

#include <xmmintrin.h>

#include <cstring>

namespace nibble::bench {
namespace {

// `ahead`: how many bytes before its turn a line is asked for, in each stream; 0: it is not.
template <int64_t streams, int64_t ahead, _mm_hint cache>
uint64_t read_streams(const std::byte* from) {
  constexpr int64_t kLength = kReadBytes / streams;
  uint64_t sum = 0;
  for (int64_t at = 0; at < kLength; at += kLine)
    for (int64_t stream = 0; stream < streams; ++stream) {
      const std::byte* const line = from + stream * kLength + at;
      if constexpr (ahead > 0) _mm_prefetch(reinterpret_cast<const char*>(line + ahead), cache);
      uint64_t word;
      std::memcpy(&word, line, sizeof word);
      sum += word;
    }
  return sum;
}

constexpr Reader kReaders[] = {
    read_streams<1, 0, _MM_HINT_T0>,    read_streams<4, 0, _MM_HINT_T0>,    read_streams<16, 0, _MM_HINT_T0>,
    read_streams<1, 2048, _MM_HINT_T0>, read_streams<4, 1024, _MM_HINT_T1>, read_streams<16, 1024, _MM_HINT_T1>,
};

}  // namespace

std::span<const Reader> readers() { return kReaders; }

}  // namespace nibble::bench
