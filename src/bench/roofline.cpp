#include "bench/roofline.h"

#include <algorithm>

#include "bench/layers.h"
#include "core/progress.h"

namespace nibble::bench {
namespace {

// The same layer as often as it takes to fill the rotation.
Result<std::vector<PackedLinear>> packed_copies(const Task& task, Isa isa, const Plan& plan, ThreadPool& pool) {
  NIBBLE_TRY(const LinearWeight weight, random_layer(task.kind, task.shape));
  std::vector<PackedLinear> copies;
  int64_t bytes = 0;
  while (copies.empty() || bytes < plan.rotation_bytes) {
    NIBBLE_TRY(PackedLinear packed, PackedLinear::pack(weight, isa, pool));
    bytes += packed.bytes();
    copies.push_back(std::move(packed));
  }
  return copies;
}

bool serves(const PackedLinear& layer, const LinearRow* row) {
  return std::find(layer.rows().begin(), layer.rows().end(), row) != layer.rows().end();
}

struct Run {
  Machine& machine;
  const Plan& plan;
  const std::vector<KernelRow>& kernels;
  ProgressMeter meter;
  Scratch scratch;
  std::vector<Case> cases;

  // Weights are packed as an instruction set likes them best, so kernels of lower ones may need a packing of their own.
  Status run(const Task& task) {
    std::vector<KernelRow> left = kernels;
    for (int level = static_cast<int>(machine.isa()); level >= 0 && !left.empty(); --level)
      NIBBLE_DO(run_level(task, static_cast<Isa>(level), left));
    meter.advance(
        1, fmt::format("{} x {}, {} x {}", task.kind.weights, task.kind.activations, task.shape.n, task.shape.k));
    return {};
  }

  // Takes out of `left` the kernels that serve the layer as packed for `level`, and measures them.
  Status run_level(const Task& task, Isa level, std::vector<KernelRow>& left) {
    NIBBLE_TRY(const PackedLinear sample, small_layer(task.kind, level));
    const auto serving = std::stable_partition(left.begin(), left.end(), [&](const KernelRow& kernel) {
      return kernel.isa > level || !serves(sample, kernel.row);
    });
    if (serving == left.end()) return {};
    NIBBLE_TRY(const auto copies, packed_copies(task, level, plan, machine.pool()));
    for (auto kernel = serving; kernel != left.end(); ++kernel)
      if (serves(copies.front(), kernel->row)) measure_tokens(task, *kernel, level, copies);
    left.erase(serving, left.end());
    return {};
  }

  // Costs nothing to pack, and is served by the same kernels.
  Result<PackedLinear> small_layer(LayerKind kind, Isa level) const {
    kind.kept = 0;
    NIBBLE_TRY(const LinearWeight weight, random_layer(kind, {16, 1024}));
    return PackedLinear::pack(weight, level, machine.pool());
  }

  void measure_tokens(const Task& task, const KernelRow& kernel, Isa level, std::span<const PackedLinear> copies) {
    Unit& unit = machine.unit_for(kernel.isa, arithmetic_of(*kernel.row));
    for (int64_t m : plan.tokens) {
      const bool chosen = level == machine.isa() && &copies.front().row_for(m) == kernel.row;
      Case one{kernel, task.kind, task.shape, m, chosen, &unit, {}};
      one.measured = measure(machine, unit, copies, level, *kernel.row, m, plan, scratch);
      cases.push_back(std::move(one));
    }
  }
};

}  // namespace

Result<std::vector<Case>> run_cases(Machine& machine, const Plan& plan, const std::vector<KernelRow>& kernels,
                                    const ProgressCallback& progress) {
  Run run{machine, plan, kernels, ProgressMeter(static_cast<double>(plan.tasks.size()), progress), {}, {}};
  for (const Task& task : plan.tasks) NIBBLE_DO(run.run(task));
  return std::move(run.cases);
}

namespace {

constexpr double kGiga = 1e9;

// "int4", "int8", "16-bit floats", "f32": the colours of the plot.
std::string family_of(const LayerKind& kind) {
  const std::string_view levels = kind.weights.substr(0, kind.weights.find(':'));
  return levels == "f16" || levels == "bf16" ? "16-bit floats" : std::string(levels);
}

bool same_line(const Case& a, const Case& b) {
  return a.kernel.row == b.kernel.row && a.kind == b.kind && a.shape == b.shape;
}

PlotPoint point_of(const Case& one, bool first_shape) {
  const Measurement& measured = one.measured;
  const double gops = measured.work.operations / measured.seconds / kGiga;
  const bool marked = first_shape && one.chosen && one.kind.weights == "int4:row" && one.kind.kept == 0;
  return {.operations_per_byte = measured.work.operations / measured.work.bytes,
          .gops = gops,
          .title = fmt::format("{}: {} x {}, {} outputs x {} inputs, {} tokens: {:.0f} GOP/s, {:.0f} % of the roof",
                               one.kernel.row->name, one.kind.weights, one.kind.activations, one.shape.n, one.shape.k,
                               one.m, gops, 100 * measured.share),
          .label = marked && one.kind.activations == "int8:token:asym" ? fmt::format("M = {}", one.m) : "",
          .prominent = one.chosen};
}

std::vector<PlotRoof> roofs_of(std::span<const Case> cases) {
  std::vector<const Unit*> units;
  for (const Case& one : cases)
    if (std::find(units.begin(), units.end(), one.unit) == units.end()) units.push_back(one.unit);
  std::vector<PlotRoof> roofs;
  for (const Unit* unit : units)
    roofs.push_back(
        {fmt::format("{} {}", to_string(unit->isa), name_of(unit->probe->arithmetic)), unit->rates.best() / kGiga});
  return roofs;
}

}  // namespace

Plot plot_of(const Machine& machine, std::span<const Case> cases) {
  Plot plot;
  plot.title = "Kernels under the roofs of this machine";
  plot.caption =
      fmt::format("{}, threads: {}. Filled: what a model would run. M: tokens, {} outputs x {} inputs, int4:row.",
                  to_string(machine.isa()), machine.threads(), cases.empty() ? 0 : cases[0].shape.n,
                  cases.empty() ? 0 : cases[0].shape.k);
  plot.gbps = machine.bandwidth() / kGiga;
  plot.roofs = roofs_of(cases);
  for (size_t i = 0; i < cases.size(); ++i) {
    const bool first_shape = cases[i].shape == cases[0].shape;
    if (i == 0 || !same_line(cases[i - 1], cases[i]))
      plot.series.push_back({family_of(cases[i].kind), first_shape, {}});
    plot.series.back().points.push_back(point_of(cases[i], first_shape));
  }
  return plot;
}

}  // namespace nibble::bench
