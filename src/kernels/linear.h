// Linear layers ready to run: canonical weights packed into the kernels' layout, and the list of kernels.
//
// The list is ordered: best instruction set first, the reference last. A layer runs the first row that serves its
// weights, its input and the number of tokens; `explain` says which one that is and why better ones were refused.
// All rows give identical bits, so the choice changes speed only.
//
// Ownership: a PackedLinear owns its weights (or shares a map of a file that holds them) and is immutable; any number
// of threads may read it.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/cpu.h"
#include "core/threads.h"
#include "format/linear_weight.h"
#include "kernels/abi/attention.h"
#include "kernels/abi/linear.h"
#include "kernels/input.h"

namespace nibble {

// What a packed layer is, without its numbers.
struct PackedShape {
  int64_t rows = 0, columns = 0;  // N outputs, K inputs
  NumberFormat weights, activations;
  std::vector<int32_t> kept_columns;  // ascending, distinct
  bool bias = false;
  Levels kept_levels = Levels::f16;  // or bf16
  int64_t rotation = 0;              // of the dense columns' input (kernels/input.h)
  int64_t sparse = 0;                // single weights beside the dense part
  std::vector<uint8_t> widths;       // bits of each dense column, where they have their own
  std::vector<int8_t> exponents;     // of each dense column, where its levels are integers and the input is quantized
  bool operator==(const PackedShape&) const = default;
};

// The most inputs that may share a scale where the input is quantized to integers and so are the weights, whose widest
// codes have `bits` bits: the largest |sum| of (code - zero) * (level - zero) fits 32 bits.
int64_t most_summed_inputs(const NumberFormat& weights, int bits, const NumberFormat& activations);

struct CodedLayout;

class PackedLinear {
 public:
  // Integer weights of up to 4 bits go into the 4-bit layout, wider ones into the 8-bit one; block formats
  // whose levels are integers go into the block layouts where the input is in one too, with blocks of the same size, a
  // multiple of 16; else, and with learned levels, their values are bfloat16 numbers exactly, which keep their codes
  // (coded layouts), and their outer scale multiplies the outputs; learned levels with quantized input
  // are integers, which keep their codes too; a 2:4 part is unpacked to
  // dense levels. `unsupported` when no kernel serves this layer (names format and activation) or when the sum of a
  // group of inputs could overflow 32 bits (65,536 symmetric int8 weights times int8 activations just fit), `corrupt`
  // when the weight contradicts itself.
  // Borrowed codes are read once, and the pages of what has been packed are released as it goes.
  static Result<PackedLinear> pack(const LinearWeight& weight, Isa isa, ThreadPool& pool);
  // The layer whose image() was stored: nothing is copied. `owner` keeps `image`, which begins at a multiple of 64,
  // alive. `corrupt` when the shape contradicts itself or the image is not of its size, `unsupported` as pack(). The
  // numbers are taken as they are: any bytes are safe to multiply with.
  static Result<PackedLinear> view(const PackedShape& shape, Isa isa, std::span<const std::byte> image,
                                   std::shared_ptr<const void> owner);
  // The bytes that the kernels of this instruction set read, in version kLayoutVersion of the layout.
  std::span<const std::byte> image() const { return image_; }
  PackedShape shape() const;
  static constexpr int kLayoutVersion = 6;

  int64_t outputs() const { return n_; }
  int64_t inputs() const { return plan_.columns; }
  const InputPlan& plan() const { return plan_; }
  int64_t bytes() const;  // packed, resident
  // The kernel that `tokens` tokens run on, and for every better row why it does not serve.
  std::string explain(int64_t tokens) const;
  const LinearRow& row_for(int64_t tokens) const;
  // All kernels that serve this layer, best first.
  const std::vector<const LinearRow*>& rows() const { return rows_; }
  // The kernel that the kept columns run on; null when nothing is kept.
  const LinearRow* kept_row_for(int64_t tokens) const;

  // What all outputs of the dense part are multiplied with: 1, but for formats with an outer scale. Where it is not 1,
  // the dense part runs first, without bias and into y; then y = outer * y + bias, and kept columns add to that.
  float outer() const { return outer_; }
  const float* bias() const { return bias_; }

  // What the kernels are called with to compute all tokens and outputs, y: [M][y_stride]. Valid while this layer and
  // `input` are. Where columns are kept, they run first, as a float layer of their own with kept_arguments, and the
  // arguments of the dense part say that y has begun.
  LinearArgs arguments(const PreparedInput& input, float* y, int64_t y_stride) const;
  LinearArgs kept_arguments(const PreparedInput& input, float* y, int64_t y_stride) const;
  // The sparse part of the outputs and tokens of `part`, before the dense part and after the kept columns, with the
  // dense part's input. y starts from the bias where nothing is kept, as a kernel does (kernels/abi/linear.h):
  //   r = bias or y; for each sparse weight of the output, columns ascending: r = fma(x, weight, r);  y = r
  void run_sparse(const LinearArgs& part, const PreparedInput& input) const;
  bool has_sparse() const { return sparse_count_ > 0; }

  // The canonical weight again (codes, pattern as dense codes, scales, kept; block formats as f32): unpack(pack(w))
  // decodes to the same values. For tests and for `dequantize`.
  LinearWeight unpack() const;
  // The effective float weights of output n, as decode_row gives them of the canonical weight; out: [inputs()]. Reads
  // the whole panel: for looking rows up one by one, not for multiplying.
  void read_row(int64_t n, std::span<float> out) const;

 private:
  friend struct LinearPacker;
  friend struct LinearUnpacker;
  struct Parts;  // where each array lies in the image
  static Result<PackedLinear> make(const PackedShape& shape, Isa isa);
  Status choose_rows();
  Status check_sparse() const;
  void keep_layout(const CodedLayout& layout);
  void keep_codes(const CodedLayout& layout);
  void keep_levels(const CodedLayout& layout);
  void place(std::span<const std::byte> image, std::shared_ptr<const void> owner);
  Parts parts() const;
  int64_t panels() const;

  int64_t n_ = 0;
  Isa isa_ = Isa::portable;
  InputPlan plan_;
  NumberFormat format_;
  bool has_bias_ = false;
  PackedDense dense_{};
  PackedDense kept_{};  // k: how many columns
  const float* bias_ = nullptr;
  struct {
    const int32_t *row_ends, *columns;
    const float* values;
  } sparse_{};
  int64_t sparse_count_ = 0;
  float outer_ = 1;
  int64_t table_values_ = 0;  // of coded layouts
  bool has_scales_ = false;   // whose codes are scaled
  std::vector<uint8_t> widths_;
  std::span<const std::byte> image_;
  std::shared_ptr<const void> owner_;
  std::vector<const LinearRow*> rows_, kept_rows_;  // that serve this layer and its kept columns, best first
};

// A layer, and where its outputs go: y[m][n] for all tokens and outputs.
struct LinearOutput {
  const PackedLinear* layer;
  float* y;  // [M][y_stride]
  int64_t y_stride;
  float* sum = nullptr;            // [M][y_stride]: y is added to it, as to a residual stream
  const LinearRow* row = nullptr;  // one of layer->rows() instead of what the layer would choose; for measuring
};

// Of the input that the tokens of one task read together: what stays in a core's second-level cache.
inline constexpr int64_t kTaskInputBytes = 1 << 20;

// The layers of a site, which read the same prepared input, as one parallel region. Threads share out outputs (and
// tokens, of more than kTaskInputBytes), which does not change the result.
void linear(std::span<const LinearOutput> outputs, const PreparedInput& input, ThreadPool& pool);
void linear(const PackedLinear& layer, const PreparedInput& input, float* y, int64_t y_stride, ThreadPool& pool);

// Calls the kernel of a row for part of a layer; where it multiplies opened panels, opens them, a few at a time.
void run(const LinearRow& row, const LinearArgs& args);

// Every kernel row, best first, that `isa` can run; the reference is last. For tests that walk the list.
std::vector<const LinearRow*> linear_rows(Isa isa);
std::vector<const AttentionRow*> attention_rows(Isa isa);
const AttentionRow& attention_row(CacheType type, Isa isa);  // the best that `isa` can run

}  // namespace nibble
