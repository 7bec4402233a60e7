// Tokens to the hidden state before the first block.
#pragma once

#include <optional>
#include <span>

#include "core/threads.h"
#include "kernels/linear.h"
#include "model/model.h"
#include "runtime/block.h"

namespace nibble {

// Embedding rows (projected in, OPT-350m) plus learned positions. Used by Model, and by streaming calibration, which
// has no whole Model. Immutable after make().
class Embedder {
 public:
  // `globals` must stay where it is and outlive the embedder. So must `tied_head`, when it is given: then rows are read
  // from it, and globals.embedding may be dropped.
  static Result<Embedder> make(const Spec& spec, const GlobalWeights& globals, Isa isa, ThreadPool& pool,
                               const PackedLinear* tied_head = nullptr);

  // out: [M][hidden] for the M tokens of all segments, in order. `usage` error for an id outside the vocabulary or a
  // position beyond max_positions.
  Status embed(std::span<const int32_t> tokens, std::span<const Segment> segments, float* out, Workspace& workspace,
               ThreadPool& pool) const;

 private:
  Status check(std::span<const int32_t> tokens, std::span<const Segment> segments) const;
  void read_row(int32_t id, std::span<float> out) const;
  void add_positions(std::span<const Segment> segments, float* out) const;

  Spec spec_;
  const GlobalWeights* globals_ = nullptr;
  const PackedLinear* tied_head_ = nullptr;
  std::optional<PackedLinear> project_in_;
  Isa isa_ = Isa::portable;
};

}  // namespace nibble
