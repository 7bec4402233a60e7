// Progress of long work: counting it. What is told to the user is in nibble/progress.h.
#pragma once

#include <nibble/progress.h>

#include <chrono>
#include <cstdint>
#include <string>

namespace nibble {

// Counts finished units of work and estimates the time left.
class ProgressMeter {
 public:
  ProgressMeter(double total, ProgressCallback callback)
      : total_(total), callback_(std::move(callback)), start_(std::chrono::steady_clock::now()) {}

  // The work begins now. `already`: units that were finished before this run (a resumed one). Neither these nor the
  // time before enter the estimate.
  void start_from(double already) {
    done_ = already_ = already;
    start_ = std::chrono::steady_clock::now();
  }
  void advance(double units, std::string what) {
    done_ += units;
    if (!callback_) return;
    std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    const double now = done_ - already_;
    callback_({std::move(what), done_ / total_, now > 0 ? elapsed.count() / now * (total_ - done_) : -1});
  }

 private:
  double total_, done_ = 0, already_ = 0;
  ProgressCallback callback_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace nibble
