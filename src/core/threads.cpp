#include "core/threads.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "core/result.h"

namespace nibble {

namespace {

using Task = FunctionRef<void(int64_t, int)>;

// The run that tasks belong to and the next task of it, in one word, so that a thread that comes late cannot claim a
// task of another run.
constexpr uint64_t kClosed = 0xFFFFFFFFu;
constexpr uint64_t ticket_of(uint64_t run, uint64_t index) { return run << 32 | index; }
constexpr uint64_t run_of(uint64_t ticket) { return ticket >> 32; }
constexpr int64_t index_of(uint64_t ticket) { return static_cast<int64_t>(ticket & kClosed); }

struct FreeSet {
  void operator()(cpu_set_t* set) const { CPU_FREE(set); }
};

// Holds a pool for one run. A second one, by a task or by another caller, would overwrite what the first still needs;
// it is refused with one thread too, so that what works on one works on many.
class OneRun {
 public:
  explicit OneRun(std::atomic<bool>& running) : running_(running) { NIBBLE_CHECK(!running_.exchange(true)); }
  ~OneRun() { running_.store(false); }
  OneRun(const OneRun&) = delete;
  OneRun& operator=(const OneRun&) = delete;

 private:
  std::atomic<bool>& running_;
};

}  // namespace

// A run is announced by a new run number in `ticket`; workers spin on it for a while before they sleep, since the next
// run of a decoder follows within microseconds, and only sleepers cost the caller a lock and a system call. The caller
// waits for tasks, not for threads: on a busy machine it does the work of a worker that gets no processor. `task` and
// `count` change only while the ticket is closed, and a claim succeeds only if the ticket did not change since they
// were read. What claimers and what finishers write lies in cache lines of its own.
struct ThreadPool::State {
  alignas(64) std::atomic<uint64_t> ticket{0};
  std::atomic<const Task*> task{nullptr};
  std::atomic<int64_t> count{0};
  std::atomic<bool> stop{false};
  alignas(64) std::atomic<int64_t> unfinished{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::mutex mutex;
  std::condition_variable wake;
  std::exception_ptr failure;  // of the current run; guarded by `mutex` until no task is unfinished
  std::vector<std::thread> workers;
  std::atomic<bool> running{false};  // a caller is in run()

  // The next task of `run`, or nothing when all are taken or another run has begun.
  const Task* claim(uint64_t run, int64_t& index) {
    for (uint64_t seen = ticket.load();;) {
      const Task* const found = task.load();
      index = index_of(seen);
      if (run_of(seen) != run || index >= count.load()) return nullptr;
      if (ticket.compare_exchange_weak(seen, seen + 1)) return found;
    }
  }

  // Takes all tasks of `run` that nobody has claimed; returns how many.
  int64_t cancel(uint64_t run) {
    int64_t index = 0, cancelled = 0;
    while (claim(run, index) != nullptr) ++cancelled;
    return cancelled;
  }

  void work(uint64_t run, int thread) noexcept {
    int64_t index = 0;
    while (const Task* found = claim(run, index)) {
      int64_t finished = 1;
      try {
        (*found)(index, thread);
      } catch (...) {
        finished += cancel(run);
        std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
      unfinished.fetch_sub(finished);
    }
  }

  // Waits for a run other than `seen`; returns its number.
  uint64_t next_run(uint64_t seen) {
    for (int spin = 0; spin < 4000; ++spin) {
      if (const uint64_t run = run_of(ticket.load()); run != seen) return run;
      _mm_pause();
    }
    std::unique_lock lock(mutex);
    ++sleepers;  // before the ticket is read again: either this thread sees the new run, or announce() the sleeper
    wake.wait(lock, [&] { return run_of(ticket.load()) != seen; });
    --sleepers;
    return run_of(ticket.load());
  }

  void loop(int thread) {
    for (uint64_t run = 0;;) {
      run = next_run(run);
      if (stop.load()) return;
      work(run, thread);
    }
  }

  // Begins the next run; returns its number.
  uint64_t announce(const Task* of_run, int64_t tasks) {
    const uint64_t last = run_of(ticket.load()), run = (last + 1) & kClosed;
    ticket.store(ticket_of(last, kClosed));
    task.store(of_run);
    count.store(tasks);
    unfinished.store(tasks);
    ticket.store(ticket_of(run, 0));
    if (sleepers.load() != 0) {
      std::lock_guard lock(mutex);  // a sleeper has looked at the ticket before, or waits
      wake.notify_all();
    }
    return run;
  }

  void join() {
    stop.store(true);
    announce(nullptr, 0);
    for (std::thread& worker : workers) worker.join();
  }
};

// The system refuses a set that is smaller than its own, whose size it does not tell.
int usable_processors() {
  constexpr int kMostProcessors = 1 << 20;
  for (int processors = CPU_SETSIZE; processors <= kMostProcessors; processors *= 2) {
    const std::unique_ptr<cpu_set_t, FreeSet> set(CPU_ALLOC(static_cast<size_t>(processors)));
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(processors));
    if (set == nullptr) return 1;
    if (sched_getaffinity(0, bytes, set.get()) == 0) return std::max(1, CPU_COUNT_S(bytes, set.get()));
    if (errno != EINVAL) return 1;
  }
  return 1;
}

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  if (threads <= 0) threads = usable_processors();
  try {
    for (int i = 1; i < threads; ++i) state_->workers.emplace_back([state = state_.get(), i] { state->loop(i); });
  } catch (...) {
    state_->join();
    throw;
  }
}

ThreadPool::~ThreadPool() { state_->join(); }

int ThreadPool::size() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(int64_t count, FunctionRef<void(int64_t)> task) {
  run_by_thread(count, [&](int64_t i, int) { task(i); });
}

void ThreadPool::run_by_thread(int64_t count, FunctionRef<void(int64_t, int)> task) {
  if (count <= 0) return;
  const OneRun held(state_->running);
  if (count == 1 || state_->workers.empty()) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  NIBBLE_CHECK(count < static_cast<int64_t>(kClosed));
  state_->work(state_->announce(&task, count), 0);
  for (int spin = 0; state_->unfinished.load() != 0; ++spin) {
    if (spin < 10000) {
      _mm_pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (state_->failure) std::rethrow_exception(std::exchange(state_->failure, nullptr));
}

void ThreadPool::run_ranges(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t)> task) {
  grain = std::max<int64_t>(grain, 1);
  run((count + grain - 1) / grain, [&](int64_t i) { task(i * grain, std::min(count, (i + 1) * grain)); });
}

}  // namespace nibble
