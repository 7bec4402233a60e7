// Progress of long work, told to whoever wants to show it.
#pragma once

#include <functional>
#include <string>

namespace nibble {

struct Progress {
  std::string what;          // e.g. "block 3 of 32, gptq down"
  double done = 0;           // fraction of the whole, 0..1
  double seconds_left = -1;  // estimated from the time so far; negative: not known yet
};

// Called on the thread that called the long function, after each finished step of its work.
using ProgressCallback = std::function<void(const Progress&)>;

}  // namespace nibble
