// One kernel on one piece of work, timed between probes of the machine.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include "bench/cases.h"
#include "bench/machine.h"
#include "bench/roof.h"
#include "core/function_ref.h"
#include "kernels/linear.h"

namespace nibble::bench {

// What is timed: the work of one call, and what it is up against.
struct Subject {
  Work work;
  Unit* unit = nullptr;   // that multiplies; null: nothing is multiplied
  bool read_only = true;  // bytes come from memory; else as many are written as in copying
};

// Seconds of one call, and how many of them went into preparing the input of what follows.
struct CallTime {
  double total = std::numeric_limits<double>::infinity(), prepare = 0;
};

struct Measurement {
  Work work;                                 // of one call
  Roof roof;                                 // the fastest probes: those between the slices, and sixteen at least
  CallTime time;                             // of the fastest slice, per call
  double least_prepare = 0, least_rest = 0;  // seconds for preparing and for what follows, each of its own best slice
  double share = 0;                          // of the roof
  double middle_share = 0;  // the middle of the slices' shares, each against the probes taken just before it
  int slices = 0;
};

// A slice is one probe of the unit, one of memory, and as many calls as take about a millisecond (one at least).
//
// Noise only adds time: the share is the fastest probe against the fastest slice. Both are of this case, so that
// neither has had better weather to choose from; a case of fewer than sixteen slices also counts the probes before it.
// Where the middle share is far below the share, something else was running.
Measurement measure(Machine& machine, const Subject& subject, const Plan& plan, FunctionRef<CallTime()> call);
// What measure() takes for a call of that many seconds.
double expected_seconds(double call_seconds, const Plan& plan);

// The memory that calls work in, from case to case.
struct Scratch {
  std::vector<float> x, y;
  PreparedInput input;
};

// A linear layer on M tokens: 2 M N K operations; packed weights, float input and float output. The input is prepared
// (split and quantized) and multiplied. `copies`: the same layer several times, packed for `isa` and used in turn.
Measurement measure_linear(Machine& machine, Unit& unit, std::span<const PackedLinear> copies, Isa isa,
                           const LinearRow& row, int64_t m, const Plan& plan, Scratch& scratch);
Work work_of(int64_t packed_bytes, const Shape& shape, int64_t m);

}  // namespace nibble::bench
