#include "bench/roofline.h"

#include <algorithm>

#include "bench/layers.h"
#include "core/checked.h"
#include "core/progress.h"

namespace nibble::bench {
namespace {

// Of the roof, by which a run's length is estimated before anything is known; and how fast layers are made and packed.
constexpr double kUsualShare = 0.6, kPackedPerSecond = 1.2e9;

bool serves(const PackedLinear& layer, const LinearRow* row) {
  return std::find(layer.rows().begin(), layer.rows().end(), row) != layer.rows().end();
}

// Kernels that read one packing of a layer.
struct LinearStep {
  Task task;
  Isa level;  // that it is packed for
  std::vector<KernelRow> kernels;
  double bytes_per_weight;
  double seconds = 0;
};
struct AttentionStep {
  AttentionTask task;
  AttentionKernelRow kernel;
  double seconds = 0;
};
struct QuantizeStep {
  QuantizeTask task;
  QuantizeKernelRow kernel;
  double seconds = 0;
};
struct SolveStep {
  SolveTask task;
  SolveKernelRow kernel;
  double seconds = 0;
};

// All steps, and how long each should take.
struct Schedule {
  Machine& machine;
  const Plan& plan;
  const Kernels& kernels;
  std::vector<LinearStep> linear;
  std::vector<AttentionStep> attention;
  std::vector<QuantizeStep> quantization;
  std::vector<SolveStep> solving;

  Status make() {
    for (const Task& task : plan.tasks) NIBBLE_DO(add_linear(task));
    for (const AttentionKernelRow& kernel : kernels.attention)
      for (const AttentionTask& task : plan.attention)
        if (runs(kernel)) attention.push_back({task, kernel, 0});
    for (const QuantizeKernelRow& kernel : kernels.quantize)
      for (const QuantizeTask& task : plan.quantization) quantization.push_back({task, kernel, 0});
    for (const SolveKernelRow& kernel : kernels.solve)
      for (const SolveTask& task : plan.solving)
        if (task.what == kernel.what) solving.push_back({task, kernel, 0});
    return {};
  }

  size_t size() const { return linear.size() + attention.size() + quantization.size() + solving.size(); }

  // Weights are packed as an instruction set likes them best, so kernels of lower ones may need a packing of their own.
  Status add_linear(const Task& task) {
    std::vector<KernelRow> left = kernels.linear;
    for (int at = static_cast<int>(machine.isa()); at >= 0 && !left.empty(); --at) {
      const Isa level = static_cast<Isa>(at);
      NIBBLE_TRY(const PackedLinear sample, small_layer(task.kind, level));
      const auto serving = std::stable_partition(left.begin(), left.end(), [&](const KernelRow& kernel) {
        return kernel.isa > level || !serves(sample, kernel.row);
      });
      if (serving == left.end()) continue;
      const double weights = static_cast<double>(sample.outputs() * sample.inputs());
      linear.push_back({task, level, {serving, left.end()}, static_cast<double>(sample.bytes()) / weights, 0});
      left.erase(serving, left.end());
    }
    return {};
  }

  // Costs nothing to pack, and is served by the same kernels.
  Result<PackedLinear> small_layer(LayerKind kind, Isa level) const {
    kind.kept = 0;
    NIBBLE_TRY(const LinearWeight weight, random_layer(kind, {16, 1024}));
    return PackedLinear::pack(weight, level, machine.pool());
  }

  double expected(const LinearStep& step) const {
    const Shape shape = step.task.shape;
    const double bytes = step.bytes_per_weight * static_cast<double>(shape.n * shape.k);
    double seconds = std::max(bytes, static_cast<double>(plan.rotation_bytes)) / kPackedPerSecond;
    for (const KernelRow& kernel : step.kernels)
      for (int64_t m : plan.tokens)
        seconds += expected(work_of(static_cast<int64_t>(bytes), shape, m),
                            machine.unit_for(kernel.isa, arithmetic_of(*kernel.row)));
    return seconds;
  }
  double expected(const AttentionStep& step) const {
    return expected(work_of(step.task, step.kernel.formats), machine.unit_for(step.kernel.isa, Arithmetic::f32));
  }
  double expected(const QuantizeStep& step) const {
    const double moving = work_of(step.task).bytes / machine.copying_now();
    const Work gemm = work_of(step.task.shape.n * step.task.shape.k, step.task.shape, step.task.m);
    return expected_seconds(moving, plan) + expected(gemm, machine.unit_for(step.kernel.isa, Arithmetic::int8));
  }
  double expected(const SolveStep& step) const {
    return expected(work_of(step.task), machine.unit_for(step.kernel.isa, arithmetic_of(step.task.what)));
  }
  double expected(const Work& work, const Unit& unit) const {
    return expected_seconds(least_seconds(work, machine.roof(unit)) / kUsualShare, plan);
  }

  // Fills in what every step should take; the sum.
  double estimate() {
    double total = 0;
    const auto add = [&](auto& steps) {
      for (auto& step : steps) total += step.seconds = expected(step);
    };
    add(linear);
    add(attention);
    add(quantization);
    add(solving);
    return total;
  }
};

struct Run {
  Machine& machine;
  const Plan& plan;
  Scratch scratch;
  Cases cases;

  Status run(const LinearStep& step) {
    NIBBLE_TRY(const auto copies, packed_copies(step.task, step.level, plan.rotation_bytes, machine.pool()));
    for (const KernelRow& kernel : step.kernels)
      if (serves(copies.front(), kernel.row)) measure_tokens(step, kernel, copies);
    return {};
  }

  void measure_tokens(const LinearStep& step, const KernelRow& kernel, std::span<const PackedLinear> copies) {
    Unit& unit = machine.unit_for(kernel.isa, arithmetic_of(*kernel.row));
    for (int64_t m : plan.tokens) {
      const bool chosen = step.level == machine.isa() && &copies.front().row_for(m) == kernel.row;
      Case one{kernel, step.task.kind, step.task.shape, m, chosen, &unit, {}};
      one.measured = measure_linear(machine, unit, copies, step.level, *kernel.row, m, plan, scratch);
      cases.linear.push_back(std::move(one));
    }
  }

  Status run(const AttentionStep& step) {
    const bool chosen = &attention_row(step.kernel.row->type, machine.isa()) == step.kernel.row;
    const Unit& unit = machine.unit_for(step.kernel.isa, Arithmetic::f32);
    cases.attention.push_back(
        {step.kernel, step.task, chosen, &unit, measure_attention(machine, step.task, step.kernel, plan)});
    return {};
  }

  Status run(const QuantizeStep& step) {
    // The kernel that a model would run feeds what a model would run after it.
    const bool chosen = &token_kernels(machine.isa()) == &token_kernels(step.kernel.isa);
    const Isa isa = chosen ? machine.isa() : step.kernel.isa;
    NIBBLE_TRY(const auto measured, measure_quantization(machine, step.task, isa, plan, scratch));
    cases.quantization.push_back({step.kernel, step.task, chosen, measured});
    return {};
  }

  Status run(const SolveStep& step) {
    Unit& unit = machine.unit_for(step.kernel.isa, arithmetic_of(step.task.what));
    NIBBLE_TRY(const auto measured, measure_solving(machine, step.task, unit, plan));
    cases.solving.push_back({step.kernel, step.task, &unit, measured});
    return {};
  }
};

std::string name_of(const LinearStep& step) {
  const Task& task = step.task;
  return fmt::format("{} x {}, {} x {}", task.kind.weights, task.kind.activations, task.shape.n, task.shape.k);
}
std::string name_of(const AttentionStep& step) {
  return fmt::format("attention, {} tokens after {}", step.task.tokens, step.task.context);
}
std::string name_of(const QuantizeStep& step) {
  return fmt::format("quantization, {} x {}", step.task.m, step.task.shape.k);
}
std::string name_of(const SolveStep& step) { return fmt::format("{}, {} inputs", step.kernel.name, step.task.shape.k); }

}  // namespace

Result<Cases> run_cases(Machine& machine, const Plan& plan, const Kernels& kernels, const ProgressCallback& progress) {
  Schedule schedule{machine, plan, kernels, {}, {}, {}, {}};
  NIBBLE_DO(schedule.make());
  const double total = schedule.estimate();
  if (progress) progress({fmt::format("{} steps", schedule.size()), 0, total});
  ProgressMeter meter(total, progress);
  Run work{machine, plan, {}, {}};
  const auto run_all = [&](const auto& steps) -> Status {
    for (const auto& step : steps) {
      NIBBLE_DO(work.run(step));
      meter.advance(step.seconds, name_of(step));
    }
    return {};
  };
  NIBBLE_DO(run_all(schedule.linear));
  NIBBLE_DO(run_all(schedule.attention));
  NIBBLE_DO(run_all(schedule.quantization));
  NIBBLE_DO(run_all(schedule.solving));
  if (!work.cases.empty()) return std::move(work.cases);
  return fail(ErrorCode::usage, "the kernels that fit serve no layer that is measured: nothing to report");
}

}  // namespace nibble::bench
