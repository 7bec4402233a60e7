#include "bench/machine.h"

#include <sys/mman.h>
#include <xmmintrin.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "bench/clock.h"
#include "core/checked.h"
#include "kernels/list.h"

namespace nibble::bench {
namespace {

constexpr int64_t kTasksPerThread = 4;     // of a slice, as kernels cut their work: a slow core gets fewer
constexpr double kTaskSeconds = 0.0002;    // of a probe of multipliers
constexpr int64_t kSliceBytes = 32 << 20;  // of a probe of memory
constexpr int64_t kTaskBytes = 1 << 20;
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kLine = 64, kAhead = 2048;  // bytes: of a cache line, and how far ahead it is asked for

// One word of every line brings in the whole line; the sum keeps the compiler from leaving it out.
void read_lines(const std::byte* from, int64_t bytes) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < bytes; i += kLine) {
    _mm_prefetch(reinterpret_cast<const char*>(from + i + kAhead), _MM_HINT_T0);
    uint64_t word;
    std::memcpy(&word, from + i, sizeof word);
    sum += word;
  }
  [[maybe_unused]] volatile uint64_t used = sum;
}

}  // namespace

LargeMemory::LargeMemory(int64_t bytes, ThreadPool& pool) : size_(round_up(bytes, kHugePage)) {
  void* found = ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(found);
  ::madvise(found, static_cast<size_t>(size_), MADV_HUGEPAGE);  // where it is refused, small pages do
  pool.run_ranges(size_, kHugePage,
                  [&](int64_t begin, int64_t end) { std::memset(data_ + begin, 1, static_cast<size_t>(end - begin)); });
}

LargeMemory::~LargeMemory() { ::munmap(data_, static_cast<size_t>(size_)); }

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
    : isa_(isa), pool_(pool), memory_(std::max(memory_bytes, 2 * kSliceBytes), pool) {
  for (const IsaTable& entry : all_tables()) {
    if (entry.isa > isa || entry.table->probes == nullptr) continue;
    for (const ProbeRow* row = entry.table->probes; row->run != nullptr; ++row)
      units_.push_back({entry.isa, row, 0, {}});
  }
  for (Unit& unit : units_) calibrate(unit);
  probe_all(1);
}

Unit& Machine::unit_for(Isa level, Arithmetic arithmetic) {
  for (Unit& unit : units_)
    if (unit.isa <= level && unit.probe->arithmetic == arithmetic) return unit;
  NIBBLE_CHECK(arithmetic == Arithmetic::bf16);
  return unit_for(level, Arithmetic::f32);
}

// Turns that take a task's time: doubled until they do.
void Machine::calibrate(Unit& unit) {
  for (int64_t turns = 256;; turns *= 2) {
    const Stopwatch watch;
    unit.probe->run(turns);
    unit.turns = turns;
    if (watch.seconds() >= kTaskSeconds) return;
  }
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
  pool_.run(kSliceBytes / kTaskBytes, [&](int64_t task) { read_lines(from + task * kTaskBytes, kTaskBytes); });
  const double rate = static_cast<double>(kSliceBytes) / watch.seconds();
  reading_.add(rate);
  return rate;
}

double Machine::probe_copying() {
  const std::byte* from = memory_.data() + next_slice();
  std::byte* to = memory_.data() + next_slice();
  const Stopwatch watch;
  pool_.run(kSliceBytes / kTaskBytes,
            [&](int64_t task) { std::memcpy(to + task * kTaskBytes, from + task * kTaskBytes, kTaskBytes); });
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
