#include "bench/solving.h"

#include <numeric>

#include "bench/clock.h"
#include "bench/layers.h"
#include "quantize/solve/gptq.h"

namespace nibble::bench {
namespace {

constexpr double kDamp = 0.01;
constexpr const char* kName = "bench";

// Twice as many tokens as inputs: a matrix as well conditioned as those of real text with damping.
Gram random_gram(int64_t width, ThreadPool& pool) {
  const int64_t tokens = 2 * width;
  const std::vector<float> x = random_input(tokens, width);
  Gram gram(width);
  gram.add(x.data(), tokens, pool);
  return gram;
}

std::vector<int32_t> stored_order(int64_t width) {
  std::vector<int32_t> order(static_cast<size_t>(width));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// Measures what may fail: after the first failure nothing more is run.
template <class Run>
Result<Measurement> measure_each(Machine& machine, const Subject& subject, const Plan& plan, const Run& run) {
  Status status;
  const Measurement measured = measure(machine, subject, plan, [&]() -> CallTime {
    const Stopwatch watch;
    if (status) status = run();
    return {watch.seconds(), 0};
  });
  NIBBLE_DO(status);
  return measured;
}

}  // namespace

const char* name_of(Solving what) {
  switch (what) {
    case Solving::gram: return "gram";
    case Solving::factorise: return "factorise";
    case Solving::gptq: return "gptq";
  }
  return "?";
}

Work work_of(const SolveTask& task) {
  const double n = static_cast<double>(task.shape.n), k = static_cast<double>(task.shape.k),
               m = static_cast<double>(task.m), triangle = static_cast<double>(Triangle::bytes(task.shape.k));
  switch (task.what) {
    case Solving::gram: return {m * k * (k + 1), m * k * sizeof(float) + triangle};
    case Solving::factorise: return {2 * k * k * k / 3, 2 * triangle};
    case Solving::gptq: return {n * k * k, triangle + n * k * (sizeof(float) + 0.5)};
  }
  return {};
}

Arithmetic arithmetic_of(Solving what) { return what == Solving::gram ? Arithmetic::f32 : Arithmetic::f64; }

Result<Measurement> measure_solving(Machine& machine, const SolveTask& task, Unit& unit, const Plan& plan) {
  ThreadPool& pool = machine.pool();
  const int64_t n = task.shape.n, k = task.shape.k;
  const Subject subject{work_of(task), &unit, true};
  if (task.what == Solving::gram) {
    const std::vector<float> x = random_input(task.m, k);
    Gram gram(k);
    return measure_each(machine, subject, plan, [&]() -> Status {
      gram.add(x.data(), task.m, pool);
      return {};
    });
  }
  const Gram gram = random_gram(k, pool);
  if (task.what == Solving::factorise)
    return measure_each(machine, subject, plan, [&]() -> Status {
      NIBBLE_TRY([[maybe_unused]] const auto factor, factorise(gram, stored_order(k), kDamp, kName, pool));
      return {};
    });
  NIBBLE_TRY(const GptqFactor factor, factorise(gram, stored_order(k), kDamp, kName, pool));
  const FloatLayer layer{kName, n, k, random_input(n, k), {}};
  LayerForm form;
  NIBBLE_TRY(form.weights, parse_format("int4:g128:asym"));
  NIBBLE_TRY(form.activations, parse_format("int8:token:asym"));
  return measure_each(machine, subject, plan, [&]() -> Status {
    NIBBLE_TRY([[maybe_unused]] const auto solved, gptq(layer, form, factor, {}, pool));
    return {};
  });
}

}  // namespace nibble::bench
