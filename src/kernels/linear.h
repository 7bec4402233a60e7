// Linear layers ready to run: canonical weights packed into the kernels' layout, and the list of kernels.
//
// The list is ordered: best instruction set first, the reference last. A layer runs the first row that serves its
// weights, its input and the number of tokens; `explain` says which one that is and why better ones were refused.
// All rows give identical bits, so the choice changes speed only.
//
// Ownership: a PackedLinear owns its weights and is immutable; any number of threads may read it. A PreparedInput
// belongs to one caller at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/cpu.h"
#include "core/threads.h"
#include "format/linear_weight.h"
#include "kernels/abi/attention.h"
#include "kernels/abi/linear.h"

namespace nibble {

// How the input of a site is prepared for its linears: all linears of one site agree on it.
struct InputPlan {
  NumberFormat activations;  // f32: the input is used as it is
  std::vector<int32_t> kept_columns;
  std::vector<int32_t> dense_columns;  // empty when nothing is kept (all columns in order)
  int64_t columns = 0;                 // K of the site
  // Of the codes: inputs to a weight group, G, and bytes of a padded group. Zero, one, zero when nothing is quantized.
  int64_t group_size = 0, groups = 1, group_stride = 0;
  bool operator==(const InputPlan&) const = default;
};

// The prepared input of M tokens: scratch that is reused from call to call.
struct PreparedInput {
  int64_t count = 0;         // M
  const float* x = nullptr;  // float input of the dense columns
  int64_t x_stride = 0;
  AlignedBuffer<uint8_t> codes;
  AlignedBuffer<float> scales, kept, dense;
  AlignedBuffer<int32_t> zeros, sums;
  int64_t stride = 0, kept_stride = 0;
};

class PackedLinear {
 public:
  // Integer weights of up to 4 bits go into the 4-bit layout, wider ones into the 8-bit one; a 2:4 part is unpacked to
  // dense levels. `unsupported` when no kernel serves this layer (names format and activation) or when the sum of a
  // group of inputs could overflow 32 bits (65,536 symmetric int8 weights times int8 activations just fit), `corrupt`
  // when the weight contradicts itself.
  static Result<PackedLinear> pack(const LinearWeight& weight, Isa isa, ThreadPool& pool);

  int64_t outputs() const { return n_; }
  int64_t inputs() const { return plan_.columns; }
  const InputPlan& plan() const { return plan_; }
  int64_t bytes() const;  // packed, resident
  // The kernel that `tokens` tokens run on, and for every better row why it does not serve.
  std::string explain(int64_t tokens) const;
  const LinearRow& row_for(int64_t tokens) const;

  // What the kernels are called with to compute all tokens and outputs, y: [M][y_stride]. Valid while this layer and
  // `input` are.
  LinearArgs arguments(const PreparedInput& input, float* y, int64_t y_stride) const;

  // The canonical weight again (codes, pattern as dense codes, scales, kept): unpack(pack(w)) decodes to the same
  // values. For tests and for `dequantize`.
  LinearWeight unpack() const;
  // The effective float weights of output n, as decode_row gives them of the canonical weight; out: [inputs()]. Reads
  // the whole panel: for looking rows up one by one, not for multiplying.
  void read_row(int64_t n, std::span<float> out) const;

 private:
  friend struct LinearPacker;
  friend struct LinearUnpacker;
  int64_t n_ = 0;
  Isa isa_ = Isa::portable;
  InputPlan plan_;
  NumberFormat format_;
  PackedDense dense_{};
  PackedKept kept_{};
  AlignedBuffer<uint8_t> codes_;
  AlignedBuffer<float> scales_, bias_;
  AlignedBuffer<int32_t> zeros_, sums_;
  AlignedBuffer<uint16_t> kept_values_;
  std::vector<const LinearRow*> rows_;  // that serve this layer, best first
};

// Quantizes and splits (or only splits) the input of a site. x: [M][x_stride] with plan.columns values a row.
// Without quantization and kept columns nothing is copied: `x` must outlive `out`'s use.
void prepare(const InputPlan& plan, const float* x, int64_t x_stride, int64_t m, Isa isa, PreparedInput& out,
             ThreadPool& pool);

// y[m][n] for all tokens and outputs; threads split outputs (and tokens), which does not change the result.
void linear(const PackedLinear& layer, const PreparedInput& input, float* y, int64_t y_stride, ThreadPool& pool);

// Every kernel row, best first, that `isa` can run; the reference is last. For tests that walk the list.
std::vector<const LinearRow*> linear_rows(Isa isa);
std::vector<const AttentionRow*> attention_rows(Isa isa);
AttentionKernel attention_kernel(CacheType type, Isa isa);
// The quantizer that `isa` runs, and its name.
QuantizeKernel quantize_kernel(Isa isa);
std::string quantize_name(Isa isa);

}  // namespace nibble
