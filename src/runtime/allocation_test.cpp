// Decoding allocates the pages of its caches and nothing else: scratch is planned by the first tokens.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "core/buffer.h"
#include "runtime/model.h"
#include "runtime/random_source.h"

namespace {
std::atomic<int64_t> news{0};
}

// Never inlined: the compiler would warn of memory from `new` that goes to `free`.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++news;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++news;
  return std::malloc(bytes);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace nibble {
namespace {

struct Case {
  const char* name;
  std::string weights, activations;  // of the blocks; empty: floats
  int64_t kept = 0;
  Model::Options options;
};

const Case kCases[] = {
    {"floats", "", "", 0, {}},
    {"w4a8_kept", "int4:g16", "int8:token:asym", 1, {}},
    {"w4_kept", "int4:g16", "f32", 1, {}},
    {"blocks", "bfp4:b16", "bfp4:b16", 2, {}},
    {"bf16", "", "", 0, {"bf16", Levels::bf16, Levels::bf16}},
    {"cache_in_blocks", "", "", 0, {"bfp8:b16/mxfp4:b32", std::nullopt}},
};

// What has been allocated: with `new`, and as aligned memory.
struct Allocations {
  int64_t heap = news, aligned = zeroed_allocations();
};

class Decode : public testing::TestWithParam<Case> {};

TEST_P(Decode, AllocatesPagesOnly) {
  const Case& test = GetParam();
  for (int threads : {1, 2}) {
    ThreadPool pool(threads);
    RandomSource source(small_spec());
    if (!test.weights.empty())
      source.edit_block = [&](const LinearWeight& w) { return rounded(w, test.weights, test.activations, test.kept); };
    const auto model = Model::load(source, test.options, pool);
    ASSERT_TRUE(model) << model.error().message;
    const int64_t batch = 3, positions = source.spec().max_positions;
    std::vector<Sequence> sequences;
    std::vector<Segment> segments;
    for (int64_t i = 0; i < batch; ++i) sequences.push_back(model->new_sequence());
    for (Sequence& sequence : sequences) segments.push_back({&sequence, 1, 0});
    const std::vector<int32_t> tokens = {5, 6, 7};
    const std::vector<int64_t> wanted = {0, 1, 2};
    std::vector<float> logits(static_cast<size_t>(batch * source.spec().vocabulary));
    Workspace workspace;
    for (int64_t position = 0; position < positions; ++position) {
      const Allocations before;
      ASSERT_TRUE(model->forward(tokens, segments, wanted, logits.data(), workspace, pool));
      const Allocations after;
      if (position == 0) continue;
      // Each sequence gets a page, and notes it in two lists, which were full.
      const bool page = position % kPagePositions == 0;
      EXPECT_EQ(after.aligned - before.aligned, page ? batch : 0) << threads << " threads, position " << position;
      EXPECT_EQ(after.heap - before.heap, page ? 2 * batch : 0) << threads << " threads, position " << position;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Decode, testing::ValuesIn(kCases),
                         [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace nibble
