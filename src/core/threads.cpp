#include "core/threads.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace nibble {

// A run is announced by raising `generation`; workers spin on it for a while before they sleep, since the next run
// of a decoder follows within microseconds. `next` hands out tasks, `busy` counts workers that are not done.
struct ThreadPool::State {
  const std::function<void(int64_t)>* task = nullptr;
  int64_t count = 0;
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<uint64_t> generation{0};
  alignas(64) std::atomic<int> busy{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::exception_ptr failure;  // of the current run; guarded by `mutex` until every worker is done
  std::vector<std::thread> workers;

  void work() noexcept {
    try {
      for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) (*task)(i);
    } catch (...) {
      next.store(count);
      std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  }

  void wait_for(uint64_t seen) {
    for (int spin = 0; spin < 4000; ++spin) {
      if (generation.load(std::memory_order_acquire) != seen) return;
      _mm_pause();
    }
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return generation.load() != seen; });
  }

  void loop() {
    for (uint64_t seen = 0;;) {
      wait_for(seen);
      seen = generation.load(std::memory_order_acquire);
      if (stop.load()) return;
      work();
      busy.fetch_sub(1, std::memory_order_release);
    }
  }

  void announce() {
    {
      std::lock_guard lock(mutex);
      generation.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
  }
};

int usable_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  if (threads <= 0) threads = usable_processors();
  for (int i = 1; i < threads; ++i) state_->workers.emplace_back([state = state_.get()] { state->loop(); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true);
  state_->announce();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::size() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(int64_t count, const std::function<void(int64_t)>& task) {
  if (count <= 0) return;
  if (count == 1 || state_->workers.empty()) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  state_->task = &task;
  state_->count = count;
  state_->next.store(0);
  state_->busy.store(static_cast<int>(state_->workers.size()));
  state_->announce();
  state_->work();
  for (int spin = 0; state_->busy.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < 10000) {
      _mm_pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (state_->failure) std::rethrow_exception(std::exchange(state_->failure, nullptr));
}

void ThreadPool::run_ranges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& task) {
  grain = std::max<int64_t>(grain, 1);
  run((count + grain - 1) / grain, [&](int64_t i) { task(i * grain, std::min(count, (i + 1) * grain)); });
}

}  // namespace nibble
