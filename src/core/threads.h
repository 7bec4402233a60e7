// A pool of threads behind one call. Work is cut into tasks that do not depend on each other, so results cannot
// depend on how many threads there are or which one runs what.
#pragma once

#include <cstdint>
#include <memory>

#include "core/function_ref.h"

namespace nibble {

class ThreadPool {
 public:
  // `threads` <= 0: one per usable processor. The calling thread is one of them. Throws std::system_error when the
  // system has no more threads, caught at the API edge.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Calls task(i) once for each i in [0, count) and returns when all are done. One caller at a time, and no task may
  // call: the program ends with a message.
  // When tasks throw (memory may run out in any of them), one of the exceptions reaches the caller, after every thread
  // has left its task; tasks that had not begun are not called.
  void run(int64_t count, FunctionRef<void(int64_t)> task);
  // The same; task(i, thread) also learns which of size() threads it is on, so that scratch can belong to a thread.
  // The calling thread is number 0.
  void run_by_thread(int64_t count, FunctionRef<void(int64_t, int)> task);
  // The same over ranges: task(begin, end) with at most `grain` items each.
  void run_ranges(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t)> task);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// That the calling thread may run on, at least 1.
int usable_processors();

}  // namespace nibble
