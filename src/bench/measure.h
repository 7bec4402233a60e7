// One kernel on one layer, timed between probes of the machine.
#pragma once

#include <span>
#include <vector>

#include "bench/cases.h"
#include "bench/machine.h"
#include "bench/roof.h"
#include "kernels/linear.h"

namespace nibble::bench {

// The memory that calls work in, from case to case.
struct Scratch {
  std::vector<float> x, y;
  PreparedInput input;
};

struct Measurement {
  Work work;                   // of one call: 2 M N K; packed weights, float input, float output
  Roof roof;                   // as probed between the slices: the fastest of the last probes
  double seconds = 0;          // of the fastest slice, per call: the input prepared (quantized) and multiplied
  double prepare_seconds = 0;  // of them for preparing, in that slice
  double share = 0;            // of the roof
  double middle_share = 0;     // the middle of the slices' shares, each against the probes taken just before it
  int slices = 0;
};

// `copies`: the same layer several times, packed for `isa` and used in turn. A slice is one probe of the unit, one of
// memory, and as many calls as take about a millisecond (one at least).
//
// Noise only adds time: the share is the fastest probe against the fastest slice. Where the middle share is far below
// it, something else was running.
Measurement measure(Machine& machine, Unit& unit, std::span<const PackedLinear> copies, Isa isa, const LinearRow& row,
                    int64_t m, const Plan& plan, Scratch& scratch);

}  // namespace nibble::bench
