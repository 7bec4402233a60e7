#include "bench/quantization.h"

#include <cstring>

#include "bench/clock.h"
#include "bench/layers.h"
#include "core/checked.h"
#include "format/integer_levels.h"

namespace nibble::bench {
namespace {

// Inputs and what is made of them, used in turn, so that both come from and go to memory.
class QuantizeCalls {
 public:
  QuantizeCalls(const InputPlan& plan, const QuantizeTask& task, Isa isa, int64_t rotation_bytes, ThreadPool& pool)
      : plan_(plan),
        task_(task),
        isa_(isa),
        pool_(pool),
        outputs_(static_cast<size_t>(ceil_div(rotation_bytes, input_bytes()))),
        inputs_(input_bytes() * copies()) {
    const std::vector<float> x = random_input(task.m, task.shape.k);
    pool.run(copies(), [&](int64_t i) { std::memcpy(inputs_.data() + i * input_bytes(), x.data(), x.size() * 4); });
  }

  CallTime call() {
    const int64_t i = next_++ % copies();
    const auto* const x = reinterpret_cast<const float*>(inputs_.data() + i * input_bytes());
    const Stopwatch watch;
    prepare(plan_, x, task_.shape.k, task_.m, isa_, outputs_[static_cast<size_t>(i)], pool_);
    return {watch.seconds()};
  }

  // Memory is entered once before anything is timed.
  void warm() {
    for (int64_t i = 0; i < copies(); ++i) call();
  }

 private:
  int64_t input_bytes() const { return task_.m * task_.shape.k * static_cast<int64_t>(sizeof(float)); }
  int64_t copies() const { return static_cast<int64_t>(outputs_.size()); }

  const InputPlan& plan_;
  const QuantizeTask& task_;
  Isa isa_;
  ThreadPool& pool_;
  std::vector<PreparedInput> outputs_;
  AlignedBuffer<std::byte> inputs_;
  int64_t next_ = 0;
};

}  // namespace

Work work_of(const QuantizeTask& task) {
  const int64_t floats = task.m * (task.shape.k + task.kind.kept), codes = task.m * (task.shape.k - task.kind.kept),
                tokens = task.m * static_cast<int64_t>(sizeof(float) + 2 * sizeof(int32_t));  // scale, zero and sum
  const auto format = parse_format(task.kind.activations);
  // Blocks of integers have a tail each; other block formats are written as bfloat16.
  const bool records = format && integer_levels(*format);
  const int64_t tails = records ? ceil_div(codes, format->group) * static_cast<int64_t>(sizeof(BlockTail)) : 0;
  const int64_t code_bytes = format && format->is_block() && !records ? 2 : 1;
  return {0, static_cast<double>(floats * static_cast<int64_t>(sizeof(float)) + codes * code_bytes + tails + tokens)};
}

Result<QuantizeMeasurement> measure_quantization(Machine& machine, const QuantizeTask& task, Isa isa, const Plan& plan,
                                                 Scratch& scratch) {
  NIBBLE_TRY(const LinearWeight weight, random_layer(task.kind, task.shape));
  std::vector<PackedLinear> layers(1);
  NIBBLE_TRY(layers[0], PackedLinear::pack(weight, isa, machine.pool()));
  QuantizeMeasurement out;
  out.gemm = &layers[0].row_for(task.m);
  Unit& unit = machine.unit_for(level_of(*out.gemm), arithmetic_of(*out.gemm));
  const Measurement gemm = measure_linear(machine, unit, layers, isa, *out.gemm, task.m, plan, scratch);
  out.of_gemm = gemm.least_prepare / gemm.least_rest;
  QuantizeCalls calls(layers[0].plan(), task, isa, plan.rotation_bytes, machine.pool());
  calls.warm();
  out.alone = measure(machine, {work_of(task), nullptr, false}, plan, [&] { return calls.call(); });
  return out;
}

}  // namespace nibble::bench
