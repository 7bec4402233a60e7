// What this machine can do: its multipliers and its memory, probed in slices of about a millisecond.
//
// A slice is short on purpose. Another program, or another guest of the same host, slows everything down for a while;
// probes taken between the slices of a kernel see the same weather as the kernel does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bench/reading.h"
#include "bench/roof.h"
#include "core/buffer.h"
#include "core/cpu.h"
#include "core/threads.h"
#include "kernels/abi/linear.h"
#include "kernels/abi/probe.h"

namespace nibble::bench {

// What the last probes of one thing found, per second. Noise only makes a probe slower, so the fastest of a few is the
// nearest to the truth of this minute.
class Rates {
 public:
  void add(double rate);
  double recent() const;  // the fastest of the last sixteen
  double best() const { return best_; }

 private:
  std::array<double, 16> last_{};
  size_t next_ = 0;
  double best_ = 0;
};

// One multiplier of this machine.
struct Unit {
  Isa isa;
  const ProbeRow* probe;
  int64_t turns = 0;  // of one task of a slice
  Rates rates;        // operations per second, all threads together
};

const char* name_of(Arithmetic arithmetic);  // "int8", "bf16", "f32", "f64"
// What a row multiplies: bytes where both weights and input are integers, bf16 where both are that, else f32.
Arithmetic arithmetic_of(const LinearRow& row);

class Machine {
 public:
  // Takes the first slices: of every multiplier of the instruction sets up to `isa`, of copying, and of every way to
  // read, of which the fastest on this machine with these threads is used from then on. `memory_bytes`: of the buffer
  // that is read; many times what the caches hold, for bandwidth of memory.
  Machine(Isa isa, int64_t memory_bytes, ThreadPool& pool);

  Isa isa() const { return isa_; }
  ThreadPool& pool() { return pool_; }
  int threads() const { return pool_.size(); }
  std::span<const Unit> units() const { return units_; }  // best instruction set first
  // The multiplier that a kernel of `level` uses: of that instruction set, or of the next one below that has it. Where
  // none multiplies bf16, f32 does.
  Unit& unit_for(Isa level, Arithmetic arithmetic);

  // Operations, or bytes read or copied (counted once), per second of one slice taken now, all threads together.
  double probe(Unit& unit);
  double probe_reading();
  double probe_copying();
  // Several slices of everything.
  void probe_all(int slices);

  // What unit and memory have reached of late: the roof of what runs now.
  Roof roof(const Unit& unit) const { return {unit.rates.recent(), reading_.recent()}; }
  // The fastest slices so far. 0: no such multiplier.
  double best_peak(Arithmetic arithmetic) const;
  double bandwidth() const { return reading_.best(); }
  double bandwidth_now() const { return reading_.recent(); }
  double copying() const { return copying_.best(); }
  double copying_now() const { return copying_.recent(); }

 private:
  void calibrate(Unit& unit);
  void settle_reading();
  int64_t next_slice();

  Isa isa_;
  ThreadPool& pool_;
  AlignedBuffer<std::byte> memory_;
  int64_t at_ = 0;              // where the next slice of memory begins
  Reader read_ = readers()[0];  // the way to read
  Rates reading_, copying_;
  std::vector<Unit> units_;
};

}  // namespace nibble::bench
