// Memory that kernels read and write: aligned to a cache line, fixed size, owned, zeroed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <vector>

namespace nibble {

using Bytes = std::vector<std::byte>;

// Zeroed memory at a 64-byte boundary; throws std::bad_alloc. Some megabytes or more are fresh pages of the system:
// they are touched first by whoever writes them first, so that each thread has its part near it, and huge ones where
// the system allows, since a weight matrix of a gigabyte would need a quarter of a million small ones.
void* allocate_zeroed(size_t bytes);
void free_zeroed(void* memory, size_t bytes);
// How often memory has been allocated so in this process: for tests of who allocates.
int64_t zeroed_allocations();

// An array of trivially copyable T at a 64-byte boundary. Throws std::bad_alloc, caught at the API edge; also for a
// count whose bytes do not fit an int64_t.
template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t count) : count_(count) {
    if (count == 0) return;
    if (count < 0 || count > (INT64_MAX - 64) / static_cast<int64_t>(sizeof(T))) throw std::bad_alloc();
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    data_ = {static_cast<T*>(allocate_zeroed(bytes)), Free{bytes}};
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) { return data_.get()[i]; }
  const T& operator[](int64_t i) const { return data_.get()[i]; }
  std::span<T> span() { return {data_.get(), static_cast<size_t>(count_)}; }
  std::span<const T> span() const { return {data_.get(), static_cast<size_t>(count_)}; }

  // Grows (losing the contents) when `count` does not fit; never shrinks.
  void reserve(int64_t count) {
    if (count <= count_) return;
    *this = AlignedBuffer();  // first, or both would be in memory
    *this = AlignedBuffer(count);
  }

 private:
  struct Free {
    size_t bytes = 0;
    void operator()(T* p) const { free_zeroed(p, bytes); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t count_ = 0;
};

}  // namespace nibble
