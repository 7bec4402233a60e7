// How fast: this machine and the kernels on it (roofline), and a model (LanguageModel::bench).
#pragma once

#include <nibble/progress.h>
#include <nibble/result.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace nibble {

// --- The machine ---------------------------------------------------------------------------------------------------

// A layer of N outputs and K inputs.
struct LayerShape {
  int64_t n = 0, k = 0;
};

struct RooflineOptions {
  int threads = 0;                 // 0: NIBBLE_THREADS, or else one per usable processor
  bool quick = false;              // one small shape, seconds: to see that it works, not to quote
  std::string kernels;             // a glob over their names; empty: those of the best instruction sets
  std::vector<LayerShape> shapes;  // of linear layers, in place of the usual ones
  std::vector<int64_t> tokens;     // M, likewise
  std::filesystem::path plot;      // an SVG file to write; empty: none
  ProgressCallback progress;       // the first, at 0, estimates the time of the whole
};

// A multiplier: one arithmetic on one instruction set.
struct UnitPeak {
  std::string isa;          // "avx512vnni"
  std::string arithmetic;   // "int8": bytes into 32-bit sums; "bf16": bfloat16 into f32 sums; "f32", "f64"
  std::string instruction;  // "vpdpbusd zmm"
  double gops = 0;          // 10^9 operations per second, all threads; a multiply-add counts two
};

// How fast something ran, and how fast it could have.
struct RoofFigures {
  double seconds = 0;  // of the fastest slice
  double gops = 0;     // operations / seconds / 10^9; a multiply-add counts two
  double gbps = 0;     // bytes / seconds / 10^9
  double operations_per_byte = 0;
  // Of the roof: the least time that the unit's peak and the bandwidth, the fastest probes between the slices, allow,
  // over the time of the fastest slice.
  double share = 0;
  double middle_share = 0;    // the middle of the slices' shares; far below `share`: something else was running
  bool memory_bound = false;  // which of the two roofs is the lower one
  std::string unit;           // what it multiplies with: "avx512vnni int8"; empty: it multiplies nothing
  double peak_gops = 0;       // of that unit, probed beside it
  double bandwidth_gbps = 0;  // likewise, of reading
};

// One kernel on one layer y = W x with M tokens, N outputs and K inputs: 2 M N K operations; the bytes are packed
// weights, float input and output. The time is that of the whole operation: input quantized, multiplied, scaled to
// floats. Weights come from memory (copies are used in turn, more than the caches hold).
struct RooflineRow : RoofFigures {
  std::string kernel, isa;
  int64_t m = 0, n = 0, k = 0;
  std::string weights, activations;  // formats as in recipes: "int4:g128", "int8:token:asym", "f32"
  int64_t kept = 0;                  // columns in 16-bit floats beside the others
  std::string kept_as;               // "f16" or "bf16"; empty where nothing is kept
  bool chosen = false;               // a model would run this kernel here
  double prepare_share = 0;          // of the time: quantizing and splitting the input
};

// One kernel on causal attention as a model runs it: new keys are rotated and stored, `m` new tokens of one sequence
// attend to `context` tokens before them and to each other. With P pairs of a token and a position it sees,
// 4 P heads head_dim operations; the bytes are the cached keys and values, once, and what is projected and comes out.
struct AttentionRoofRow : RoofFigures {
  std::string kernel, isa;
  int64_t m = 0, context = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::string cache;  // of keys and values: "f16", "bfp8:b16"; "bfp6:b16 + q + p" where those are rounded, too
  bool chosen = false;
};

// The kernels that split and quantize a layer's input, on `m` tokens that come from memory. There are no operations;
// the bytes are what is read and what is written, and the bandwidth that of copying with both counted.
struct QuantizeRoofRow : RoofFigures {
  std::string kernel, isa;
  int64_t m = 0, n = 0, k = 0;  // of the layer that the input is for
  std::string weights, activations;
  int64_t kept = 0;
  bool chosen = false;
  std::string gemm;    // the kernel that a model would run on the prepared input
  double of_gemm = 0;  // time to prepare over time to multiply, with an input that was just made (in cache)
};

// What a quantizer spends its time on, for a layer of N outputs and K inputs: the Gram matrix of `m` inputs ("gram"),
// the Cholesky factor of the inverse of one ("factorise", no outputs and no tokens), GPTQ ("gptq", no tokens); the
// operations are M K (K + 1), 2/3 K^3 and N K^2. It runs on the kernels of the best instruction set only.
struct SolveRoofRow : RoofFigures {
  std::string kernel, isa;
  int64_t m = 0, n = 0, k = 0;
};

struct RooflineReport {
  std::string isa;
  int threads = 0;
  bool quick = false;
  double int8 = 0, bf16 = 0, f32 = 0;  // of the best unit for each, 10^9 operations per second; 0: there is none
  double bandwidth = 0, copy = 0;      // reading; copying, bytes counted once; 10^9 bytes per second
  std::vector<UnitPeak> units;
  std::vector<RooflineRow> rows;
  std::vector<AttentionRoofRow> attention;
  std::vector<QuantizeRoofRow> quantization;
  std::vector<SolveRoofRow> solving;
  double seconds = 0;  // that all this took
  Status plot;         // why the plot that was asked for could not be written; the report stands without it
};

// Probes the machine and times its kernels, in slices of about a millisecond between which the probes are repeated, so
// that a noisy neighbour slows both. Errors: `usage` when no kernel fits the glob, none of those that fit serves what
// is measured, or the plot cannot be a file; `io` when it cannot be made, which is tried before anything is measured;
// `resources` for memory; `unsupported` for a bad NIBBLE_ISA.
Result<RooflineReport> roofline(const RooflineOptions& options = {});

// --- A model -------------------------------------------------------------------------------------------------------

struct BenchOptions {
  std::vector<int64_t> prompts = {512, 2048};           // tokens of each prompt, capped by the model's positions
  std::vector<int64_t> contexts = {0, 2048};            // tokens before the decoded ones, capped likewise
  std::vector<int64_t> batches = {1, 2, 4, 8, 16, 32};  // sequences that are decoded together, from an empty context
  int64_t generated_tokens = 32;                        // decoded for each, capped likewise
  int repetitions = 5;                                  // after one run that is not counted
  ProgressCallback progress;
};

// Tokens per second over the repetitions.
struct Rate {
  double median = 0;
  double low = 0, high = 0;      // quartiles: half of the repetitions lie between them
  std::vector<double> measured;  // in order
  // Of the roof: the least time that the peaks of the units its kernels use and the read bandwidth, the fastest probes
  // between all passes, allow for the linear layers' operations, the weights and the cache of the fastest pass, over
  // its time.
  double share = 0;
};

struct PrefillRate {
  int64_t tokens = 0;
  Rate rate;
};
struct DecodeRate {
  int64_t context = 0;
  Rate rate;
};
struct BatchRate {
  int64_t batch = 0;
  Rate rate;  // of all sequences together
};

struct BenchReport {
  int64_t generated_tokens = 0;
  int repetitions = 0, threads = 0;
  std::string isa;
  std::vector<PrefillRate> prefill;  // in the order of the options, what is capped to the same number once
  std::vector<DecodeRate> decode;
  std::vector<BatchRate> batched;
  int64_t packed_bytes = 0;            // weights in this process's own memory
  int64_t mapped_bytes = 0;            // weights mapped from files: resident as far as they have been read
  int64_t peak_bytes = 0;              // the most memory this process held, from its start to its first token
  double first_pass_seconds = 0;       // one token, with nothing warmed up
  double int8 = 0, bf16 = 0, f32 = 0;  // peaks as in RooflineReport
  double bandwidth = 0;
};

}  // namespace nibble
