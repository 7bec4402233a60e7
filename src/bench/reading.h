// Ways to read memory from end to end.
//
// Which one is the fastest depends on the processor: how many streams its own prefetchers follow, and whether asking
// for lines ahead of them helps or is in their way. Kernels read several streams side by side, and a roof has to be at
// least as high as what they reach.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace nibble::bench {

// What all ways read in one piece. No power of two: streams that lay a power of two apart would meet in the same sets
// of the caches and push each other out.
constexpr int64_t kLine = 64;  // bytes of a cache line
constexpr int64_t kMostStreams = 16;
constexpr int64_t kReadBytes = kMostStreams * 1025 * kLine;

// Brings in every line of kReadBytes bytes by reading its first word; the sum of these words.
using Reader = uint64_t (*)(const std::byte* from);

// One, 4 and 16 streams side by side, left to the prefetchers of the processor or asked for ahead.
std::span<const Reader> readers();

}  // namespace nibble::bench
