#include <nibble/bench.h>

#include "api/guard.h"
#include "api/peaks.h"
#include "api/threads.h"
#include "bench/clock.h"
#include "bench/roofline.h"
#include "core/file.h"

namespace nibble {
namespace {

std::string name_of(const bench::Unit& unit) {
  return to_string(unit.isa) + " " + bench::name_of(unit.probe->arithmetic);
}

bench::Wish wish_of(const RooflineOptions& options) {
  bench::Wish wish{options.quick, {}, options.tokens};
  for (const LayerShape& shape : options.shapes) wish.shapes.push_back({shape.n, shape.k});
  return wish;
}

RoofFigures figures_of(const bench::Measurement& measured, const bench::Unit* unit) {
  const double seconds = measured.time.total;
  RoofFigures out;
  out.seconds = seconds;
  out.gops = measured.work.operations / seconds / bench::kGiga;
  out.gbps = measured.work.bytes / seconds / bench::kGiga;
  out.operations_per_byte = measured.work.operations / measured.work.bytes;
  out.share = measured.share;
  out.middle_share = measured.middle_share;
  out.memory_bound = bench::memory_bound(measured.work, measured.roof);
  out.bandwidth_gbps = measured.roof.bytes / bench::kGiga;
  if (unit == nullptr) return out;
  out.unit = name_of(*unit);
  out.peak_gops = measured.roof.operations / bench::kGiga;
  return out;
}

RooflineRow row_of(const bench::Case& one) {
  RooflineRow row;
  static_cast<RoofFigures&>(row) = figures_of(one.measured, one.unit);
  row.kernel = one.kernel.row->name;
  row.isa = to_string(one.kernel.isa);
  row.m = one.m;
  row.n = one.shape.n;
  row.k = one.shape.k;
  row.weights = one.kind.weights;
  row.activations = one.kind.activations;
  row.kept = one.kind.kept;
  if (row.kept > 0) row.kept_as = one.kind.kept_as;
  row.chosen = one.chosen;
  row.prepare_share = one.measured.time.prepare / one.measured.time.total;
  return row;
}

AttentionRoofRow row_of(const bench::AttentionCase& one) {
  AttentionRoofRow row;
  static_cast<RoofFigures&>(row) = figures_of(one.measured, one.unit);
  row.kernel = one.kernel.row->name;
  row.isa = to_string(one.kernel.isa);
  row.m = one.task.tokens;
  row.context = one.task.context;
  row.heads = one.task.heads;
  row.kv_heads = one.task.kv_heads;
  row.head_dim = one.task.head_dim;
  row.cache = cache_name(one.kernel.formats);
  if (one.kernel.formats.q.is_block()) row.cache += " + q + p";
  row.chosen = one.chosen;
  return row;
}

QuantizeRoofRow row_of(const bench::QuantizeCase& one) {
  QuantizeRoofRow row;
  static_cast<RoofFigures&>(row) = figures_of(one.measured.alone, nullptr);
  row.kernel = one.kernel.name;
  row.isa = to_string(one.kernel.isa);
  row.m = one.task.m;
  row.n = one.task.shape.n;
  row.k = one.task.shape.k;
  row.weights = one.task.kind.weights;
  row.activations = one.task.kind.activations;
  row.kept = one.task.kind.kept;
  row.chosen = one.chosen;
  row.gemm = one.measured.gemm->name;
  row.of_gemm = one.measured.of_gemm;
  return row;
}

SolveRoofRow row_of(const bench::SolveCase& one) {
  SolveRoofRow row;
  static_cast<RoofFigures&>(row) = figures_of(one.measured, one.unit);
  row.kernel = one.kernel.name;
  row.isa = to_string(one.kernel.isa);
  row.m = one.task.m;
  row.n = one.task.shape.n;
  row.k = one.task.shape.k;
  return row;
}

template <class From, class Row>
void add_rows(const std::vector<From>& cases, std::vector<Row>& rows) {
  for (const From& one : cases) rows.push_back(row_of(one));
}

void fill_units(const bench::Machine& machine, RooflineReport& report) {
  report.copy = machine.copying() / bench::kGiga;
  for (const bench::Unit& unit : machine.units())
    report.units.push_back({to_string(unit.isa), bench::name_of(unit.probe->arithmetic), unit.probe->instruction,
                            unit.rates.best() / bench::kGiga});
}

// Makes the file that would become the plot, and drops it: minutes of measuring are not spent on a plot that cannot be
// written, and nothing is left behind by a run that is interrupted.
Status check_writable(const std::filesystem::path& plot) {
  NIBBLE_DO(check_file_target(plot));
  NIBBLE_TRY([[maybe_unused]] const DurableFile made, DurableFile::create(plot));
  return {};
}

}  // namespace

Result<RooflineReport> roofline(const RooflineOptions& options) {
  return guarded([&]() -> Result<RooflineReport> {
    if (!options.plot.empty()) NIBBLE_DO(check_writable(options.plot));
    NIBBLE_TRY(const int threads, thread_count(options.threads));
    NIBBLE_TRY(const Isa isa, selected_isa());
    NIBBLE_TRY(const auto kernels, bench::chosen_kernels(isa, options.kernels));
    NIBBLE_TRY(const bench::Plan plan, bench::make_plan(wish_of(options)));
    const bench::Stopwatch watch;
    ThreadPool pool(threads);
    bench::Machine machine(isa, plan.memory_bytes, pool);
    NIBBLE_TRY(const auto cases, bench::run_cases(machine, plan, kernels, options.progress));
    RooflineReport report;
    report.isa = to_string(isa);
    report.threads = threads;
    report.quick = options.quick;
    add_rows(cases.linear, report.rows);
    add_rows(cases.attention, report.attention);
    add_rows(cases.quantization, report.quantization);
    add_rows(cases.solving, report.solving);
    fill_peaks(machine, report);
    fill_units(machine, report);
    report.seconds = watch.seconds();
    if (!options.plot.empty()) report.plot = write_durably(options.plot, bench::svg(bench::plot_of(machine, cases)));
    return report;
  });
}

}  // namespace nibble
