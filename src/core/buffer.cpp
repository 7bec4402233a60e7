#include "core/buffer.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace nibble {
namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kLarge = 2 * kHugePage;  // from here on whole pages are taken from the system

std::atomic<int64_t> allocations{0};

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Pages at a boundary of huge ones: what is mapped too much before and after is returned.
void* map_pages(size_t bytes) {
  const size_t taken = bytes + kHugePage;
  void* const mapped = ::mmap(nullptr, taken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* const begin = static_cast<std::byte*>(mapped);
  const size_t address = reinterpret_cast<size_t>(mapped), before = rounded(address, kHugePage) - address;
  if (before > 0) ::munmap(begin, before);
  ::munmap(begin + before + bytes, kHugePage - before);
  ::madvise(begin + before, bytes, MADV_HUGEPAGE);  // advice: where it is refused, small pages do
  return begin + before;
}

}  // namespace

int64_t zeroed_allocations() { return allocations.load(std::memory_order_relaxed); }

void* allocate_zeroed(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (bytes >= kLarge) return map_pages(rounded(bytes, kHugePage));
  void* const memory = std::aligned_alloc(64, rounded(bytes, 64));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  return memory;
}

void free_zeroed(void* memory, size_t bytes) {
  if (bytes >= kLarge) {
    ::munmap(memory, rounded(bytes, kHugePage));
  } else {
    std::free(memory);
  }
}

}  // namespace nibble
