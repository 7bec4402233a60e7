#include "core/threads.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <mutex>
#include <new>
#include <set>
#include <thread>
#include <vector>

namespace nibble {
namespace {

TEST(ThreadPool, HasTheSizeAskedFor) {
  for (int threads : {1, 2, 5}) EXPECT_EQ(ThreadPool(threads).size(), threads);
  EXPECT_EQ(ThreadPool(0).size(), usable_processors());
  EXPECT_GE(usable_processors(), 1);
}

TEST(ThreadPool, RunsEveryTaskExactlyOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
      pool.run(count, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
      for (auto& c : calls) ASSERT_EQ(c.load(), 1);
    }
    pool.run(-1, [&](int64_t) { FAIL(); });
  }
}

TEST(ThreadPool, IsDoneWhenRunReturns) {
  ThreadPool pool(4);
  std::vector<int64_t> values(64);  // not atomic: run() itself must order the writes before the reads
  for (int64_t round = 0; round < 1000; ++round) {
    pool.run(64, [&](int64_t i) { values[static_cast<size_t>(i)] = round * i; });
    for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], round * i);
  }
}

TEST(ThreadPool, WakesAfterSleeping) {
  ThreadPool pool(3);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // longer than workers spin
    std::atomic<int> sum{0};
    pool.run(10, [&](int64_t i) { sum += static_cast<int>(i); });
    EXPECT_EQ(sum.load(), 45);
  }
}

TEST(ThreadPool, RangesCoverEverythingWithTheSameCutsForAnyThreadCount) {
  for (int threads : {1, 2, 7}) {
    ThreadPool pool(threads);
    std::mutex mutex;
    std::set<std::pair<int64_t, int64_t>> ranges;
    pool.run_ranges(10, 4, [&](int64_t begin, int64_t end) {
      std::lock_guard lock(mutex);
      ranges.emplace(begin, end);
    });
    EXPECT_EQ(ranges, (std::set<std::pair<int64_t, int64_t>>{{0, 4}, {4, 8}, {8, 10}}));
    int calls = 0;
    ThreadPool(1).run_ranges(3, 0, [&](int64_t begin, int64_t end) { calls += static_cast<int>(end - begin); });
    EXPECT_EQ(calls, 3) << "a grain below one counts as one";
    pool.run_ranges(0, 4, [&](int64_t, int64_t) { FAIL(); });
  }
}

TEST(ThreadPool, ATaskKnowsItsThread) {
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    std::vector<std::atomic<int>> inside(static_cast<size_t>(threads));
    std::atomic<int> calls{0};
    for (int round = 0; round < 200; ++round)
      pool.run_by_thread(9, [&](int64_t, int thread) {
        ASSERT_EQ(inside[static_cast<size_t>(thread)].fetch_add(1), 0) << "two tasks with one thread's scratch";
        ++calls;
        inside[static_cast<size_t>(thread)].fetch_sub(1);
      });
    EXPECT_EQ(calls.load(), 9 * 200);
  }
}

TEST(ThreadPool, AnExceptionReachesTheCallerWhenNobodyRunsTheTaskAnyMore) {
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int64_t bad : {0, 1, 17, 63}) {
      std::atomic<int> inside{0};
      const auto run = [&] {
        pool.run(64, [&](int64_t i) {
          ++inside;
          if (i == bad) {
            --inside;
            throw std::bad_alloc();
          }
          std::this_thread::yield();
          --inside;
        });
      };
      EXPECT_THROW(run(), std::bad_alloc);
      EXPECT_EQ(inside.load(), 0);
      std::atomic<int> calls{0};
      pool.run(10, [&](int64_t) { ++calls; });  // the pool goes on, and the exception is not told twice
      EXPECT_EQ(calls.load(), 10);
    }
  }
}

TEST(ThreadPool, ARunWithinARunEndsTheProgram) {
  for (int threads : {1, 2, 4})
    for (int64_t inner : {1, 8})
      EXPECT_DEATH(
          {
            ThreadPool pool(threads);
            pool.run(8, [&](int64_t) { pool.run(inner, [](int64_t) {}); });
          },
          "broken invariant")
          << threads << " threads, " << inner << " tasks inside";
  ThreadPool outer(2);  // a pool of one's own is allowed
  std::atomic<int> calls{0};
  outer.run(8, [&](int64_t) { ThreadPool(1).run(3, [&](int64_t) { ++calls; }); });
  EXPECT_EQ(calls.load(), 24);
}

TEST(UsableProcessors, AreThoseThatTheThreadMayRunOn) {
  std::thread([] {
    cpu_set_t all, one;
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    EXPECT_EQ(usable_processors(), CPU_COUNT(&all));
    CPU_ZERO(&one);
    for (size_t i = 0; CPU_COUNT(&one) == 0; ++i)
      if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(usable_processors(), 1);
  }).join();
}

TEST(ThreadPool, ManyPoolsStartAndStop) {
  for (int i = 0; i < 100; ++i) {
    ThreadPool pool(3);
    if (i % 2 == 0) continue;  // also without any work
    std::atomic<int> calls{0};
    pool.run(5, [&](int64_t) { ++calls; });
    ASSERT_EQ(calls.load(), 5);
  }
}

}  // namespace
}  // namespace nibble
