#include <nibble/bench.h>

#include "api/guard.h"
#include "api/threads.h"
#include "bench/roofline.h"
#include "core/file.h"

namespace nibble {
namespace {

constexpr double kGiga = 1e9;
constexpr int kFirstSlices = 10;

std::string name_of(const bench::Unit& unit) {
  return to_string(unit.isa) + " " + bench::name_of(unit.probe->arithmetic);
}

bench::Wish wish_of(const RooflineOptions& options) {
  bench::Wish wish{options.quick, {}, options.tokens};
  for (const LayerShape& shape : options.shapes) wish.shapes.push_back({shape.n, shape.k});
  return wish;
}

RooflineRow row_of(const bench::Case& one) {
  const bench::Measurement& measured = one.measured;
  RooflineRow row;
  row.kernel = one.kernel.row->name;
  row.isa = to_string(one.kernel.isa);
  row.m = one.m;
  row.n = one.shape.n;
  row.k = one.shape.k;
  row.weights = one.kind.weights;
  row.activations = one.kind.activations;
  row.kept = one.kind.kept;
  row.chosen = one.chosen;
  row.seconds = measured.seconds;
  row.gops = measured.work.operations / measured.seconds / kGiga;
  row.gbps = measured.work.bytes / measured.seconds / kGiga;
  row.operations_per_byte = measured.work.operations / measured.work.bytes;
  row.share = measured.share;
  row.middle_share = measured.middle_share;
  row.prepare_share = measured.prepare_seconds / measured.seconds;
  row.memory_bound = bench::memory_bound(measured.work, measured.roof);
  row.unit = name_of(*one.unit);
  row.peak_gops = measured.roof.operations / kGiga;
  row.bandwidth_gbps = measured.roof.bytes / kGiga;
  return row;
}

void fill_peaks(const bench::Machine& machine, RooflineReport& report) {
  report.int8 = machine.best_peak(Arithmetic::int8) / kGiga;
  report.bf16 = machine.best_peak(Arithmetic::bf16) / kGiga;
  report.f32 = machine.best_peak(Arithmetic::f32) / kGiga;
  report.bandwidth = machine.bandwidth() / kGiga;
  report.copy = machine.copying() / kGiga;
  for (const bench::Unit& unit : machine.units())
    report.units.push_back({to_string(unit.isa), bench::name_of(unit.probe->arithmetic), unit.probe->instruction,
                            unit.rates.best() / kGiga});
}

}  // namespace

Result<RooflineReport> roofline(const RooflineOptions& options) {
  return guarded([&]() -> Result<RooflineReport> {
    if (!options.plot.empty()) NIBBLE_DO(check_file_target(options.plot));
    NIBBLE_TRY(const int threads, thread_count(options.threads));
    NIBBLE_TRY(const Isa isa, selected_isa());
    NIBBLE_TRY(const auto kernels, bench::chosen_kernels(isa, options.kernels));
    NIBBLE_TRY(const bench::Plan plan, bench::make_plan(wish_of(options)));
    ThreadPool pool(threads);
    bench::Machine machine(isa, plan.memory_bytes, pool);
    machine.probe_all(kFirstSlices);
    NIBBLE_TRY(const auto cases, bench::run_cases(machine, plan, kernels, options.progress));
    RooflineReport report;
    report.isa = to_string(isa);
    report.threads = threads;
    report.quick = options.quick;
    for (const bench::Case& one : cases) report.rows.push_back(row_of(one));
    fill_peaks(machine, report);
    if (!options.plot.empty()) NIBBLE_DO(write_durably(options.plot, bench::svg(bench::plot_of(machine, cases))));
    return report;
  });
}

}  // namespace nibble
