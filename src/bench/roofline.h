// The whole run of `nibble bench --roofline`: the plan's cases, one after the other.
#pragma once

#include <nibble/progress.h>

#include <span>
#include <string>
#include <vector>

#include "bench/machine.h"
#include "bench/measure.h"
#include "bench/plot.h"

namespace nibble::bench {

// A kernel on a layer of a shape with M tokens.
struct Case {
  KernelRow kernel;
  LayerKind kind;
  Shape shape;
  int64_t m = 0;
  bool chosen = false;  // this is the kernel that a model would run
  const Unit* unit = nullptr;
  Measurement measured;
};

// The cases in the plan's order; `machine` then holds the peaks. A kernel is measured on all kinds of layers it serves.
Result<std::vector<Case>> run_cases(Machine& machine, const Plan& plan, const std::vector<KernelRow>& kernels,
                                    const ProgressCallback& progress);

// The cases under the roofs of the units they use. Kernels that a model would run are filled; those on the first shape
// of the plan are joined from token count to token count.
Plot plot_of(const Machine& machine, std::span<const Case> cases);

}  // namespace nibble::bench
