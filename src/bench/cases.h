// What `nibble bench --roofline` measures, as data: kernels x kinds of layers x shapes x numbers of tokens, attention,
// the quantization of a layer's input, and what a quantizer does with a layer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/cpu.h"
#include "core/result.h"
#include "format/attention_formats.h"
#include "kernels/abi/attention.h"
#include "kernels/abi/linear.h"
#include "kernels/abi/solve.h"

namespace nibble::bench {

// N outputs, K inputs.
struct Shape {
  int64_t n, k;
  bool operator==(const Shape&) const = default;
};

// Formats spelt as in recipes, and how many columns are kept in 16-bit floats.
struct LayerKind {
  std::string_view weights, activations;
  int64_t kept = 0;
  std::string_view kept_as = "f16";  // or "bf16"
  bool operator==(const LayerKind&) const = default;
};

// What one kind is measured on.
struct Task {
  LayerKind kind;
  Shape shape;
};

// `tokens` new tokens of one sequence attend to the `context` before them and to each other, causally. Prefill: no
// context; decoding: one token.
struct AttentionTask {
  int64_t heads, kv_heads, head_dim;
  int64_t tokens, context;
  bool operator==(const AttentionTask&) const = default;
};

// The input of `m` tokens is prepared (split and quantized) for a layer of this kind and shape.
struct QuantizeTask {
  LayerKind kind;
  Shape shape;
  int64_t m;
};

// A quantizer's work on a layer of this shape: the Gram matrix of `m` inputs [M][K]; the Cholesky factor of the inverse
// of one [K][K]; GPTQ on the weights [N][K].
enum class Solving : uint8_t { gram, factorise, gptq };
struct SolveTask {
  Solving what;
  Shape shape;
  int64_t m;
};

// How long and on what.
struct Plan {
  std::vector<Task> tasks;
  std::vector<int64_t> tokens;  // M
  std::vector<AttentionTask> attention;
  std::vector<QuantizeTask> quantization;
  std::vector<SolveTask> solving;
  int64_t memory_bytes;    // that the bandwidth probe reads through
  int64_t rotation_bytes;  // of weights that are used in turn, so that they come from memory
  double case_seconds;     // to spend on a case, its least number of slices permitting
  int least_slices, most_slices;
};
// What a run is asked for; empty lists: the plan's own. Shapes and tokens are those of linear layers.
struct Wish {
  bool quick = false;
  std::vector<Shape> shapes;
  std::vector<int64_t> tokens;
};

// The layers of models of 1 to 70 billion parameters, which takes minutes; or quick, one small shape, to see that
// everything works: its weights fit the caches, so that it has no figures to quote. `usage` for shapes and tokens out
// of range.
Result<Plan> make_plan(const Wish& wish);

// Kernels and the instruction sets whose tables list them.
struct KernelRow {
  const LinearRow* row;
  Isa isa;
};
// Rows for any formats are run with a few: keys and values in blocks, and all operands.
struct AttentionKernelRow {
  const AttentionRow* row;
  Isa isa;
  AttentionFormats formats;
};
struct QuantizeKernelRow {
  std::string name;  // "quantize__avx512"
  Isa isa;
};
// A quantizer uses the best kernels of a process and no others.
struct SolveKernelRow {
  std::string name;  // "gptq__avx512"
  Isa isa;
  Solving what;
};
struct Kernels {
  std::vector<KernelRow> linear;
  std::vector<AttentionKernelRow> attention;
  std::vector<QuantizeKernelRow> quantize;
  std::vector<SolveKernelRow> solve;
};

// Those that `isa` can run and whose name fits the glob (`*`, `?`, `[...]`), best first; the reference only where the
// glob says "reference". Without a glob those of the best levels: of everything from avx512vnni on where there is
// AVX-512, else of `isa` alone. `usage` when nothing fits.
Result<Kernels> chosen_kernels(Isa isa, const std::string& glob);

// The instruction set whose table lists the row.
Isa level_of(const LinearRow& row);

}  // namespace nibble::bench
