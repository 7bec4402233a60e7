#include <algorithm>

#include "bench/roofline.h"

namespace nibble::bench {
namespace {

// "int4", "int8", "16-bit floats", "f32", "block formats", "learned levels": the colours of the plot.
std::string family_of(const LayerKind& kind) {
  const NumberFormat format = *parse_format(kind.weights);
  if (format.is_learned()) return "learned levels";
  if (format.is_block()) return "block formats";
  if (format.levels == Levels::f16 || format.levels == Levels::bf16) return "16-bit floats";
  return std::string(kind.weights.substr(0, kind.weights.find(':')));
}

// The line that is labelled with its numbers of tokens.
constexpr LayerKind kMarked = {"int4:row", "int8:token:asym"};

bool same_line(const Case& a, const Case& b) {
  return a.kernel.row == b.kernel.row && a.kind == b.kind && a.shape == b.shape;
}

PlotPoint point_of(const Measurement& measured, bool chosen, std::string_view what) {
  const double gops = measured.work.operations / measured.time.total / kGiga;
  return {.operations_per_byte = measured.work.operations / measured.work.bytes,
          .gops = gops,
          .title = fmt::format("{}: {:.0f} GOP/s, {:.0f} % of the roof", what, gops, 100 * measured.share),
          .label = "",
          .prominent = chosen};
}

PlotPoint point_of(const Case& one, bool first_shape) {
  const std::string kept =
      one.kind.kept > 0 ? fmt::format(", {} columns kept in {}", one.kind.kept, one.kind.kept_as) : "";
  PlotPoint point =
      point_of(one.measured, one.chosen,
               fmt::format("{}: {} x {}{}, {} outputs x {} inputs, {} tokens", one.kernel.row->name, one.kind.weights,
                           one.kind.activations, kept, one.shape.n, one.shape.k, one.m));
  if (first_shape && one.chosen && one.kind == kMarked) point.label = fmt::format("M = {}", one.m);
  return point;
}

PlotPoint point_of(const AttentionCase& one) {
  const AttentionTask& task = one.task;
  return point_of(one.measured, one.chosen,
                  fmt::format("{}: {} heads of {}, {} of keys and values, {} tokens after {}", one.kernel.row->name,
                              task.heads, task.head_dim, task.kv_heads, task.tokens, task.context));
}

PlotPoint point_of(const SolveCase& one) {
  return point_of(
      one.measured, true,
      fmt::format("{}: {} inputs, in {}", one.kernel.name, one.task.shape.k, name_of(one.unit->probe->arithmetic)));
}

std::vector<PlotRoof> roofs_of(const Cases& cases) {
  std::vector<const Unit*> units;
  const auto add = [&](const auto& one) {
    if (std::find(units.begin(), units.end(), one.unit) == units.end()) units.push_back(one.unit);
  };
  std::for_each(cases.linear.begin(), cases.linear.end(), add);
  std::for_each(cases.attention.begin(), cases.attention.end(), add);
  std::for_each(cases.solving.begin(), cases.solving.end(), add);
  std::vector<PlotRoof> roofs;
  for (const Unit* unit : units)
    roofs.push_back(
        {fmt::format("{} {}", to_string(unit->isa), name_of(unit->probe->arithmetic)), unit->rates.best() / kGiga});
  return roofs;
}

std::string caption_of(const Machine& machine, const Cases& cases) {
  std::string caption =
      fmt::format("{}, threads: {}. Filled: what a model would run.", to_string(machine.isa()), machine.threads());
  if (cases.linear.empty()) return caption;
  const Shape& shape = cases.linear[0].shape;
  const auto marked = [&](const Case& one) { return one.chosen && one.shape == shape && one.kind == kMarked; };
  if (std::none_of(cases.linear.begin(), cases.linear.end(), marked)) return caption;
  return caption + fmt::format(" M: tokens, {} outputs x {} inputs, {}.", shape.n, shape.k, kMarked.weights);
}

}  // namespace

Plot plot_of(const Machine& machine, const Cases& cases) {
  Plot plot;
  plot.title = "Kernels under the roofs of this machine";
  plot.caption = caption_of(machine, cases);
  plot.gbps = machine.bandwidth() / kGiga;
  plot.roofs = roofs_of(cases);
  for (size_t i = 0; i < cases.linear.size(); ++i) {
    const Case& one = cases.linear[i];
    const bool first_shape = one.shape == cases.linear[0].shape;
    if (i == 0 || !same_line(cases.linear[i - 1], one)) plot.series.push_back({family_of(one.kind), first_shape, {}});
    plot.series.back().points.push_back(point_of(one, first_shape));
  }
  if (!cases.attention.empty()) plot.series.push_back({"attention", false, {}});
  for (const AttentionCase& one : cases.attention) plot.series.back().points.push_back(point_of(one));
  if (!cases.solving.empty()) plot.series.push_back({"solvers", false, {}});
  for (const SolveCase& one : cases.solving) plot.series.back().points.push_back(point_of(one));
  return plot;
}

}  // namespace nibble::bench
