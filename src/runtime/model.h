// A model ready to run, and the one forward pass of all families.
//
// Ownership: a Model owns its packed weights and is immutable after loading; any number of Sequences (KV caches) may
// be run against it. One thread calls forward() at a time; the pool's threads share the work inside.
//
// Results are bit-identical for a token whatever the thread count, the batch it is in, or how its prompt is chunked.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/threads.h"
#include "kernels/linear.h"
#include "model/model.h"

namespace nibble {

struct PackedBlock {
  NormWeight attention_norm, mlp_norm;
  std::array<std::optional<PackedLinear>, kRoles> linears;
};
Result<PackedBlock> pack_block(const BlockWeights& weights, Isa isa, ThreadPool& pool);

// The keys and values of one sequence, all layers: [layer][kv head][position][head_dim], grown as needed.
class Sequence {
 public:
  Sequence(const Spec& spec, CacheType type);
  int64_t length() const { return length_; }
  void clear() { length_ = 0; }
  void truncate(int64_t length);
  int64_t bytes() const;
  // Room for `length` positions; contents up to length() survive.
  void reserve(int64_t length);

 private:
  friend class Model;
  friend struct BlockRun;
  int64_t layers_, kv_heads_, head_dim_, capacity_ = 0, length_ = 0;
  CacheType type_;
  std::vector<AlignedBuffer<std::byte>> keys_, values_;  // one per layer: [kv head][capacity][head_dim]
};

// A run of new tokens of one sequence in a batch.
struct Segment {
  Sequence* sequence = nullptr;
  int64_t count = 0;       // tokens of this segment (rows of the hidden state, in order)
  int64_t position = 0;    // of its first token
};

// Sees the input of a site just before it is quantized: x is [M][width]. For calibration.
using Tap = std::function<void(const Site& site, const float* x, int64_t m, int64_t width)>;

// Scratch of a forward pass, reused from call to call.
struct Workspace {
  AlignedBuffer<float> normed, second_normed, q, k, v, mixed, gate, up, out, scores, embedded;
  PreparedInput input;
};

// One block over M tokens: hidden [M][D] is read and replaced. `layer` selects the cache of each segment's sequence.
void forward_block(const Spec& spec, const PackedBlock& block, int64_t layer, std::span<const Segment> segments,
                   float* hidden, Isa isa, Workspace& workspace, ThreadPool& pool, const Tap* tap = nullptr);

class Model {
 public:
  struct Options {
    CacheType cache = CacheType::f32;
    std::optional<Levels> weights;  // convert float linears to this type (f16, bf16, f32) when loading
  };
  static Result<Model> load(const std::filesystem::path& folder, const Options& options, ThreadPool& pool);
  static Result<Model> load(const ModelSource& source, const Options& options, ThreadPool& pool);

  const Spec& spec() const { return spec_; }
  Isa isa() const { return isa_; }
  Sequence new_sequence() const { return Sequence(spec_, options_.cache); }
  const PackedBlock& block(int64_t layer) const { return blocks_[static_cast<size_t>(layer)]; }
  int64_t packed_bytes() const;

  // Appends tokens to their sequences. tokens: concatenated over segments (segment.position is ignored and taken
  // from the sequence). Logits of the rows listed in `wanted` (indices into tokens, ascending) are written to
  // logits[wanted.size()][vocabulary]. `usage` error for an id outside the vocabulary or a position beyond
  // max_positions; `failure` when logits are not finite (names the row).
  Status forward(std::span<const int32_t> tokens, std::span<Segment> segments, std::span<const int64_t> wanted,
                 float* logits, Workspace& workspace, ThreadPool& pool) const;

 private:
  Spec spec_;
  Options options_;
  Isa isa_ = Isa::portable;
  LinearWeight embedding_;
  std::vector<float> position_rows_;
  std::optional<PackedLinear> project_in_, project_out_, head_;
  NormWeight final_norm_;
  std::vector<PackedBlock> blocks_;
};

// The hidden state before the first block for tokens at given positions: embedding row (projected in), plus learned
// positions. out [M][hidden]. For streaming calibration, which has no whole Model.
class Embedder {
 public:
  static Result<Embedder> make(const Spec& spec, const GlobalWeights& globals, Isa isa, ThreadPool& pool);
  Status embed(std::span<const int32_t> tokens, std::span<const Segment> segments, float* out, Workspace& workspace,
               ThreadPool& pool) const;

 private:
  Spec spec_;
  const GlobalWeights* globals_ = nullptr;  // must outlive the embedder
  std::optional<PackedLinear> project_in_;
  Isa isa_ = Isa::portable;
};

}  // namespace nibble
