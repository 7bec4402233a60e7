#include "bench/measure.h"

#include <algorithm>

#include "bench/clock.h"
#include "bench/layers.h"

namespace nibble::bench {
namespace {

constexpr double kSliceSeconds = 0.001;

Work work_of(const PackedLinear& layer, int64_t m) {
  const int64_t n = layer.outputs(), k = layer.inputs(), float_bytes = sizeof(float);
  return {2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
          static_cast<double>(layer.bytes() + m * (n + k) * float_bytes)};
}

struct CallTime {
  double prepare = 0, total = 0;
};

// One kernel that walks through the copies of a layer, call by call.
class Runner {
 public:
  Runner(Machine& machine, std::span<const PackedLinear> copies, Isa isa, const LinearRow& row, int64_t m,
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
    return {prepared, watch.seconds()};
  }

  CallTime mean_of(int calls) {
    CallTime sum;
    for (int i = 0; i < calls; ++i) {
      const CallTime one = call();
      sum.prepare += one.prepare / calls;
      sum.total += one.total / calls;
    }
    return sum;
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

Measurement measure(Machine& machine, Unit& unit, std::span<const PackedLinear> copies, Isa isa, const LinearRow& row,
                    int64_t m, const Plan& plan, Scratch& scratch) {
  Measurement out;
  out.work = work_of(copies.front(), m);
  Runner runner(machine, copies, isa, row, m, scratch);
  runner.call();  // memory is mapped, clocks rise
  const int calls = static_cast<int>(std::clamp(kSliceSeconds / runner.call().total, 1.0, 100.0));
  CallTime best{0, Fastest().seconds};
  std::vector<double> shares;
  const Stopwatch watch;
  while (out.slices < plan.least_slices || (out.slices < plan.most_slices && watch.seconds() < plan.case_seconds)) {
    const Roof now = {machine.probe(unit), machine.probe_reading()};
    const CallTime time = runner.mean_of(calls);
    if (time.total < best.total) best = time;
    shares.push_back(share_of_roof(out.work, now, time.total));
    ++out.slices;
  }
  out.roof = machine.roof(unit);
  out.seconds = best.total;
  out.prepare_seconds = best.prepare;
  out.share = share_of_roof(out.work, out.roof, best.total);
  out.middle_share = middle(shares);
  return out;
}

}  // namespace nibble::bench
