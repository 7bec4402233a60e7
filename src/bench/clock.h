// Time that has passed.
#pragma once

#include <chrono>
#include <limits>

namespace nibble::bench {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The shortest of several times. Noise only ever adds time, so the shortest is the nearest to what the work takes.
struct Fastest {
  double seconds = std::numeric_limits<double>::infinity();
  void add(double measured) { seconds = measured < seconds ? measured : seconds; }
};

}  // namespace nibble::bench
