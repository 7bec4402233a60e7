// The whole run of `nibble bench --roofline`: the plan's cases, one after the other.
#pragma once

#include <nibble/progress.h>

#include <span>
#include <string>
#include <vector>

#include "bench/attention.h"
#include "bench/machine.h"
#include "bench/measure.h"
#include "bench/plot.h"
#include "bench/quantization.h"
#include "bench/solving.h"

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

struct AttentionCase {
  AttentionKernelRow kernel;
  AttentionTask task;
  bool chosen = false;
  const Unit* unit = nullptr;
  Measurement measured;
};

struct QuantizeCase {
  QuantizeKernelRow kernel;
  QuantizeTask task;
  bool chosen = false;
  QuantizeMeasurement measured;
};

struct SolveCase {
  SolveKernelRow kernel;
  SolveTask task;
  const Unit* unit = nullptr;
  Measurement measured;
};

struct Cases {
  std::vector<Case> linear;
  std::vector<AttentionCase> attention;
  std::vector<QuantizeCase> quantization;
  std::vector<SolveCase> solving;

  bool empty() const { return linear.empty() && attention.empty() && quantization.empty() && solving.empty(); }
};

// The cases in the plan's order; `machine` then holds the peaks. A kernel is measured on everything it serves. The
// first progress, before anything is measured, tells how long the whole should take. `usage` when none of the kernels
// serves anything in the plan.
Result<Cases> run_cases(Machine& machine, const Plan& plan, const Kernels& kernels, const ProgressCallback& progress);

// The cases under the roofs of the units they use; quantization, which multiplies nothing, is not in it. Kernels that a
// model would run are filled; those on the first shape of the plan are joined from token count to token count.
Plot plot_of(const Machine& machine, const Cases& cases);

}  // namespace nibble::bench
