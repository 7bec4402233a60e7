#include "bench/machine.h"

#include <algorithm>
#include <cstring>

#include "bench/clock.h"
#include "kernels/list.h"

namespace nibble::bench {
namespace {

constexpr int64_t kTasksPerThread = 4;   // of a slice, as kernels cut their work: a slow core gets fewer
constexpr double kTaskSeconds = 0.0002;  // of a probe of multipliers
constexpr int kFirstSlices = 10, kSettlingRounds = 5, kCalibrations = 3;
constexpr int64_t kTasksOfMemory = 32;  // of a slice of memory
constexpr int64_t kSliceBytes = kTasksOfMemory * kReadBytes;
constexpr int64_t kHugePage = 2 << 20;

// Written by the pool's threads, since pages that nobody has written are all one page of zeros.
AlignedBuffer<std::byte> written_memory(int64_t bytes, ThreadPool& pool) {
  AlignedBuffer<std::byte> memory(bytes);
  pool.run_ranges(bytes, kHugePage, [&](int64_t begin, int64_t end) {
    std::memset(memory.data() + begin, 1, static_cast<size_t>(end - begin));
  });
  return memory;
}

}  // namespace

void Rates::add(double rate) {
  last_[next_++ % last_.size()] = rate;
  best_ = std::max(best_, rate);
}

double Rates::recent() const { return *std::max_element(last_.begin(), last_.end()); }

const char* name_of(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::int8: return "int8";
    case Arithmetic::bf16: return "bf16";
    case Arithmetic::f32: return "f32";
    case Arithmetic::f64: return "f64";
  }
  return "?";
}

Arithmetic arithmetic_of(const LinearRow& row) {
  if (row.activation_bits > 0) return Arithmetic::int8;
  constexpr PackedType kHalves[] = {PackedType::bf16_pairs, PackedType::bf16_tiles, PackedType::coded_pairs,
                                    PackedType::coded_tiles};
  const bool halves = std::find(std::begin(kHalves), std::end(kHalves), row.weights) != std::end(kHalves);
  return halves ? Arithmetic::bf16 : Arithmetic::f32;
}

Machine::Machine(Isa isa, int64_t memory_bytes, ThreadPool& pool)
    : isa_(isa), pool_(pool), memory_(written_memory(std::max(memory_bytes, 2 * kSliceBytes), pool)) {
  for (const IsaTable& entry : all_tables()) {
    if (entry.isa > isa || entry.table->probes == nullptr) continue;
    for (const ProbeRow* row = entry.table->probes; row->run != nullptr; ++row)
      units_.push_back({entry.isa, row, 0, {}});
  }
  for (Unit& unit : units_) calibrate(unit);
  settle_reading();
  probe_all(kFirstSlices);
}

Unit& Machine::unit_for(Isa level, Arithmetic arithmetic) {
  for (Unit& unit : units_)
    if (unit.isa <= level && unit.probe->arithmetic == arithmetic) return unit;
  NIBBLE_CHECK(arithmetic == Arithmetic::bf16);
  return unit_for(level, Arithmetic::f32);
}

// Turns that take a task's time: doubled until they do. The shortest of three timings counts: one alone may contain
// what something else was doing, which would end the doubling early.
void Machine::calibrate(Unit& unit) {
  for (unit.turns = 256;; unit.turns *= 2) {
    Fastest fastest;
    for (int i = 0; i < kCalibrations; ++i) {
      const Stopwatch watch;
      unit.probe->run(unit.turns);
      fastest.add(watch.seconds());
    }
    if (fastest.seconds >= kTaskSeconds) return;
  }
}

// In every round each way has its turn, so that all see the same weather; the middle of the rounds counts, so that one
// lucky slice decides nothing.
void Machine::settle_reading() {
  std::vector<std::vector<double>> rates(readers().size());
  for (int round = 0; round < kSettlingRounds; ++round)
    for (size_t way = 0; way < rates.size(); ++way) {
      read_ = readers()[way];
      rates[way].push_back(probe_reading());
    }
  const auto slower = [](const auto& a, const auto& b) { return middle(a) < middle(b); };
  read_ = readers()[static_cast<size_t>(std::max_element(rates.begin(), rates.end(), slower) - rates.begin())];
}

double Machine::probe(Unit& unit) {
  const int64_t tasks = pool_.size() * kTasksPerThread;
  const Stopwatch watch;
  pool_.run(tasks, [&](int64_t) { unit.probe->run(unit.turns); });
  const double rate = static_cast<double>(tasks * unit.turns * unit.probe->operations) / watch.seconds();
  unit.rates.add(rate);
  return rate;
}

int64_t Machine::next_slice() {
  const int64_t begin = at_ + kSliceBytes <= memory_.size() ? at_ : 0;
  at_ = begin + kSliceBytes;
  return begin;
}

double Machine::probe_reading() {
  const std::byte* from = memory_.data() + next_slice();
  const Stopwatch watch;
  pool_.run(kTasksOfMemory, [&](int64_t task) {
    [[maybe_unused]] volatile const uint64_t used = read_(from + task * kReadBytes);  // or it would not be read
  });
  const double rate = static_cast<double>(kSliceBytes) / watch.seconds();
  reading_.add(rate);
  return rate;
}

double Machine::probe_copying() {
  const std::byte* from = memory_.data() + next_slice();
  std::byte* to = memory_.data() + next_slice();
  const Stopwatch watch;
  pool_.run(kTasksOfMemory,
            [&](int64_t task) { std::memcpy(to + task * kReadBytes, from + task * kReadBytes, kReadBytes); });
  const double rate = static_cast<double>(kSliceBytes) / watch.seconds();
  copying_.add(rate);
  return rate;
}

void Machine::probe_all(int slices) {
  for (int i = 0; i < slices; ++i) {
    for (Unit& unit : units_) probe(unit);
    probe_reading();
    probe_copying();
  }
}

double Machine::best_peak(Arithmetic arithmetic) const {
  double best = 0;
  for (const Unit& unit : units_)
    if (unit.probe->arithmetic == arithmetic) best = std::max(best, unit.rates.best());
  return best;
}

}  // namespace nibble::bench
