#include "bench/measure.h"

#include <algorithm>

#include "bench/clock.h"
#include "bench/layers.h"

namespace nibble::bench {
namespace {

constexpr double kSliceSeconds = 0.001;
constexpr double kProbeSeconds = 0.003;  // what the two probes of a slice take, roughly

int calls_of_slice(double call_seconds) {
  return static_cast<int>(std::clamp(kSliceSeconds / call_seconds, 1.0, 100.0));
}

Roof probe_beside(Machine& machine, const Subject& subject) {
  const double operations = subject.unit != nullptr ? machine.probe(*subject.unit) : 1;
  return {operations, subject.read_only ? machine.probe_reading() : 2 * machine.probe_copying()};
}

Roof recent_roof(const Machine& machine, const Subject& subject) {
  const double operations = subject.unit != nullptr ? subject.unit->rates.recent() : 1;
  return {operations, subject.read_only ? machine.bandwidth_now() : 2 * machine.copying_now()};
}

Roof higher(const Roof& a, const Roof& b) { return {std::max(a.operations, b.operations), std::max(a.bytes, b.bytes)}; }

CallTime mean_of(int calls, FunctionRef<CallTime()> call) {
  CallTime sum{0, 0};
  for (int i = 0; i < calls; ++i) {
    const CallTime one = call();
    sum.total += one.total / calls;
    sum.prepare += one.prepare / calls;
  }
  return sum;
}

// One kernel that walks through the copies of a layer, call by call.
class LinearCalls {
 public:
  LinearCalls(Machine& machine, std::span<const PackedLinear> copies, Isa isa, const LinearRow& row, int64_t m,
              Scratch& scratch)
      : machine_(machine), copies_(copies), isa_(isa), row_(row), m_(m), scratch_(scratch) {
    const auto wanted = static_cast<size_t>(m * copies.front().inputs());
    if (scratch.x.size() < wanted) scratch.x = random_input(m, copies.front().inputs());
    scratch.y.resize(std::max(scratch.y.size(), static_cast<size_t>(m * copies.front().outputs())));
  }

  CallTime call() {
    const PackedLinear& layer = copies_[next_++ % copies_.size()];
    const Stopwatch watch;
    prepare(layer.plan(), scratch_.x.data(), layer.inputs(), m_, isa_, scratch_.input, machine_.pool());
    const double prepared = watch.seconds();
    const LinearOutput output{&layer, scratch_.y.data(), layer.outputs(), nullptr, &row_};
    linear({&output, 1}, scratch_.input, machine_.pool());
    return {watch.seconds(), prepared};
  }

 private:
  Machine& machine_;
  std::span<const PackedLinear> copies_;
  Isa isa_;
  const LinearRow& row_;
  int64_t m_;
  Scratch& scratch_;
  size_t next_ = 0;
};

}  // namespace

Measurement measure(Machine& machine, const Subject& subject, const Plan& plan, FunctionRef<CallTime()> call) {
  Measurement out;
  out.work = subject.work;
  Fastest preparing, rest;
  double once = call().total;  // memory is mapped, clocks rise
  if (once < kSliceSeconds) once = call().total;
  const int calls = calls_of_slice(once);
  std::vector<double> shares;
  Roof fastest;  // of the probes of this case
  const Stopwatch watch;
  while (out.slices < plan.least_slices || (out.slices < plan.most_slices && watch.seconds() < plan.case_seconds)) {
    const Roof now = probe_beside(machine, subject);
    fastest = higher(fastest, now);
    const CallTime time = mean_of(calls, call);
    if (time.total < out.time.total) out.time = time;
    preparing.add(time.prepare);
    rest.add(time.total - time.prepare);
    shares.push_back(share_of_roof(out.work, now, time.total));
    ++out.slices;
  }
  out.least_prepare = preparing.seconds;
  out.least_rest = rest.seconds;
  out.roof = higher(fastest, recent_roof(machine, subject));
  out.share = share_of_roof(out.work, out.roof, out.time.total);
  out.middle_share = middle(shares);
  return out;
}

double expected_seconds(double call_seconds, const Plan& plan) {
  const double slice = calls_of_slice(call_seconds) * call_seconds + kProbeSeconds;
  return call_seconds + std::max(plan.least_slices * slice, std::min(plan.case_seconds, plan.most_slices * slice));
}

Work work_of(int64_t packed_bytes, const Shape& shape, int64_t m) {
  const double n = static_cast<double>(shape.n), k = static_cast<double>(shape.k), tokens = static_cast<double>(m);
  return {2 * tokens * n * k, static_cast<double>(packed_bytes) + tokens * (n + k) * sizeof(float)};
}

Measurement measure_linear(Machine& machine, Unit& unit, std::span<const PackedLinear> copies, Isa isa,
                           const LinearRow& row, int64_t m, const Plan& plan, Scratch& scratch) {
  const PackedLinear& layer = copies.front();
  LinearCalls calls(machine, copies, isa, row, m, scratch);
  return measure(machine, {work_of(layer.bytes(), {layer.outputs(), layer.inputs()}, m), &unit, true}, plan,
                 [&] { return calls.call(); });
}

}  // namespace nibble::bench
