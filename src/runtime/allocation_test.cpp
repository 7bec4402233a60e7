// Decoding takes nothing from the heap: scratch is planned by the first tokens.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "runtime/model.h"
#include "runtime/random_source.h"

namespace {
std::atomic<int64_t> allocations{0};
}

// Never inlined: the compiler would warn of memory from `new` that goes to `free`.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(bytes);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace nibble {
namespace {

TEST(Decode, AllocatesNothing) {
  ThreadPool pool(2);
  for (const char* activations : {"int8:token:asym", "f32"}) {
    RandomSource source(small_spec());
    source.edit_block = [&](const LinearWeight& w) { return rounded(w, "int4:g16", activations, 1); };
    const auto model = Model::load(source, {}, pool);
    ASSERT_TRUE(model);
    const int64_t batch = 3;
    std::vector<Sequence> sequences;
    std::vector<Segment> segments;
    for (int64_t i = 0; i < batch; ++i) sequences.push_back(model->new_sequence());
    for (Sequence& sequence : sequences) segments.push_back({&sequence, 1, 0});
    const std::vector<int32_t> tokens = {5, 6, 7};
    const std::vector<int64_t> wanted = {0, 1, 2};
    std::vector<float> logits(static_cast<size_t>(batch * source.spec().vocabulary));
    Workspace workspace;
    int64_t before = 0;
    for (int64_t position = 0; position < 48; ++position) {
      if (position == 33) before = allocations;  // tables and caches have just grown to twice their size
      ASSERT_TRUE(model->forward(tokens, segments, wanted, logits.data(), workspace, pool));
    }
    EXPECT_EQ(allocations - before, 0) << activations;
  }
}

}  // namespace
}  // namespace nibble
