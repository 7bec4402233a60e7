// A model ready to run, and the one forward pass of all families.
//
// Ownership: a Model owns its packed weights and is immutable after loading; any number of Sequences (KV caches) may
// be run against it. One thread calls forward() with a Workspace at a time; the pool's threads share the work inside.
//
// Results are bit-identical for a token whatever the thread count, the batch it is in, or how its prompt is chunked.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/threads.h"
#include "kernels/linear.h"
#include "model/model.h"
#include "runtime/block.h"
#include "runtime/embedder.h"
#include "runtime/packed_cache.h"
#include "runtime/sequence.h"

namespace nibble {

class Model {
 public:
  struct Options {
    // How keys and values are stored in all layers, "f16", "bfp8:b16" or "KEYS/VALUES" (format/attention_formats.h);
    // absent: as the quantized model says, else f32.
    std::optional<std::string> cache;
    std::optional<Levels> weights;     // convert float linears to this type (f16, bf16, f32) when loading
    Levels activations = Levels::f32;  // what the input of float linears is rounded to: f32, or bf16 for bf16 weights
    // Map the packed weights from kPackedCacheName beside the model (packed_cache.h); where that file is not there,
    // stale or damaged, pack as ever and write it anew. note() says what happened.
    bool packed_cache = false;
  };
  // Packs block by block, so that at most one block is in memory in both forms. Errors: those of the source and of
  // PackedLinear::pack, with the linear's name; `unsupported` when a weight does not fit the type asked for; `usage`
  // for a cache in a format that attention cannot compute in.
  static Result<Model> load(const std::filesystem::path& folder, const Options& options, ThreadPool& pool);
  static Result<Model> load(const ModelSource& source, const Options& options, ThreadPool& pool);

  const Spec& spec() const { return spec_; }
  Isa isa() const { return isa_; }
  Sequence new_sequence() const { return Sequence(spec_, attention_); }
  // What attention is computed in, by layer: as the model's folder has it, and as new sequences do, whose keys and
  // values are in the cache that was asked for.
  const std::vector<AttentionFormats>& stored_attention() const { return stored_attention_; }
  const AttentionFormats& attention(int64_t layer) const { return (*attention_)[static_cast<size_t>(layer)].formats(); }
  const PackedBlock& block(int64_t layer) const { return blocks_[static_cast<size_t>(layer)]; }
  const PackedLinear& head() const { return *head_; }
  const Embedder& embedder() const { return *embedder_; }
  // Of all weights together: those in this process's own memory, and those that are views of files, whose pages are
  // resident as far as they have been read.
  int64_t packed_bytes() const;
  int64_t mapped_bytes() const;
  // One line about the packed cache for the user; empty when none was asked for.
  const std::string& note() const { return note_; }

  // Appends tokens to their sequences. tokens: concatenated over segments (Segment::position is set from the
  // sequence). Logits of the rows listed in `wanted` (indices into tokens, each above the one before) are written to
  // logits [wanted.size()][vocabulary]. `usage` error for an id outside the vocabulary, a position beyond
  // max_positions, or a sequence in two segments; `failure` when logits are not finite (names the row). After an
  // error the sequences are as long as before.
  Status forward(std::span<const int32_t> tokens, std::span<Segment> segments, std::span<const int64_t> wanted,
                 float* logits, Workspace& workspace, ThreadPool& pool) const;

  // The two halves of forward(), for whoever wants the logits in parts: the residual stream after the last block, left
  // in workspace.hidden [M][hidden]; and the logits [M][vocabulary] of rows of it.
  Status run_blocks(std::span<const int32_t> tokens, std::span<Segment> segments, Workspace& workspace,
                    ThreadPool& pool) const;
  Status logits_of(const float* hidden, int64_t m, float* logits, Workspace& workspace, ThreadPool& pool) const;

 private:
  Model() = default;
  // With `wanted`, only those rows are in workspace.hidden afterwards.
  Status run_blocks(std::span<const int32_t> tokens, std::span<Segment> segments,
                    const std::span<const int64_t>* wanted, Workspace& workspace, ThreadPool& pool) const;
  Status check_logits(const float* logits, int64_t m, ThreadPool& pool) const;
  Status load_packing(const ModelSource& source, ThreadPool& pool);
  Status load_cached(const ModelSource& source, ThreadPool& pool);
  Status take_globals(const PackedCache& cache, ThreadPool& pool);
  Status take_block(const PackedCache& cache, int64_t layer);
  Status write_cache(const std::filesystem::path& path, const Json& key, ThreadPool& pool) const;
  int64_t linear_bytes() const;
  Status load_globals(const ModelSource& source, ThreadPool& pool);
  Status load_block(const ModelSource& source, int64_t layer, ThreadPool& pool);
  Result<PackedLinear> pack(LinearWeight& weight, std::string_view name, ThreadPool& pool) const;
  Status convert(LinearWeight& weight, std::string_view name, ThreadPool& pool) const;

  Spec spec_;
  Options options_;
  std::vector<AttentionFormats> stored_attention_;
  AttentionPlans attention_;
  std::string note_;
  bool from_cache_ = false;  // the linears are views of the packed cache
  Isa isa_ = Isa::portable;
  std::unique_ptr<GlobalWeights> globals_;    // embedding, learned positions and final norm; the rest is packed
  std::unique_ptr<const PackedLinear> head_;  // a tied one holds the only copy of the embedding
  std::optional<Embedder> embedder_;          // reads *globals_ and a tied *head_
  std::optional<PackedLinear> project_out_;
  std::vector<PackedBlock> blocks_;
};

}  // namespace nibble
