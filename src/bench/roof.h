// The arithmetic of shares: what a piece of work needs, what a machine offers, and how near a measured time comes.
#pragma once

#include <span>

namespace nibble::bench {

constexpr double kGiga = 1e9;  // rates are told in 10^9 per second

// What must be done: operations (a multiply-add counts two) and bytes that come from or go to memory.
struct Work {
  double operations = 0, bytes = 0;
};

// What the machine can do at most, per second.
struct Roof {
  double operations = 0, bytes = 0;
};

// The least time the work can take: operations and bytes are served at the same time, so the slower of the two counts.
double least_seconds(const Work& work, const Roof& roof);
// Whether the bytes take longer than the operations.
bool memory_bound(const Work& work, const Roof& roof);
// least_seconds() over the seconds it took: 1 at the roof; 0 when `seconds` is not positive.
double share_of_roof(const Work& work, const Roof& roof, double seconds);

// The middle number (the lower one of two); 0 for none.
double middle(std::span<const double> values);

}  // namespace nibble::bench
