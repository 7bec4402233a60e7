// The peaks of a machine, as both kinds of benchmark report them.
#pragma once

#include "bench/machine.h"

namespace nibble {

// Report: RooflineReport or BenchReport.
template <class Report>
void fill_peaks(const bench::Machine& machine, Report& report) {
  report.int8 = machine.best_peak(Arithmetic::int8) / bench::kGiga;
  report.bf16 = machine.best_peak(Arithmetic::bf16) / bench::kGiga;
  report.f32 = machine.best_peak(Arithmetic::f32) / bench::kGiga;
  report.bandwidth = machine.bandwidth() / bench::kGiga;
}

}  // namespace nibble
