// One decoder block, packed and run: the same function for every family.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/threads.h"
#include "kernels/linear.h"
#include "model/model.h"
#include "runtime/attention.h"
#include "runtime/positions.h"
#include "runtime/sequence.h"

namespace nibble {

// The linears of a block in kernel layout. Roles that the Spec does not have are empty.
struct PackedBlock {
  NormWeight attention_norm, mlp_norm;
  std::array<std::optional<PackedLinear>, kRoles> linears;
  // By role: the first role with the same InputPlan. A site prepares its input once for each distinct plan, which is
  // once unless its linears read different formats.
  std::array<int, kRoles> plan_of{};

  const PackedLinear& operator[](Role role) const { return *linears[static_cast<size_t>(role)]; }
  int64_t bytes() const;  // packed, resident
};
// Fills in plan_of from the linears.
void find_plans(PackedBlock& block);
// Errors are those of PackedLinear::pack, with the role in front.
Result<PackedBlock> pack_block(const BlockWeights& weights, Isa isa, ThreadPool& pool);

// Scratch of a forward pass, reused from call to call; one thread calls at a time. Each float buffer is [M][width of
// what it is named after], grown as needed.
struct Workspace {
  AlignedBuffer<float> embedded;        // embedding rows, where they are narrower than the hidden state
  AlignedBuffer<float> hidden;          // the residual stream
  AlignedBuffer<float> q, k, v, mixed;  // mixed: values weighted by attention
  AlignedBuffer<float> gate, up;
  AlignedBuffer<float> attention, mlp;  // what the two halves add to the residual stream
  AlignedBuffer<float> normed;          // input of a site, for whoever looks at it
  AlignedBuffer<float> head_rows;       // input of the head, where the hidden state is projected
  PreparedInput input;
  PositionTables positions;
  AttentionScratch attention_scratch;
  std::vector<const Sequence*> sequences;
};

// One block over M tokens: hidden [M][D] is read and replaced. `layer` selects the cache of each segment's sequence,
// where the tokens' keys and values are stored at the segment's positions (room is made; the length is the caller's
// business). Every position must be below the Spec's max_positions. With `wanted`, the numbers of some of the M tokens,
// ascending: only their rows are computed after attention, and they are left in order in the first rows of `hidden`.
void forward_block(const Spec& spec, const PackedBlock& block, int64_t layer, std::span<const Segment> segments,
                   float* hidden, Isa isa, Workspace& workspace, ThreadPool& pool,
                   const std::span<const int64_t>* wanted = nullptr);

// The same pass in stages, for calibration: stage i begins where the input of site i of sites_of(spec) is there, runs
// its linears, and ends where the input of the next site is. All stages in order give the bits of forward_block.

// What stages leave behind for later ones, [M][width] each, beside keys and values, which the stage that stores them
// also reads.
enum StagePart : unsigned {
  kHiddenPart = 1,     // `hidden`, width D
  kMixedPart = 2,      // workspace.mixed, heads * head_dim
  kActivatedPart = 4,  // workspace.up, ffn: the input of the down projection
  kAttentionPart = 8,  // workspace.attention, D: of parallel blocks
};
struct StageParts {
  unsigned input = 0;              // what the input of its site is made from; the stage reads it too
  unsigned reads = 0, writes = 0;  // what else the stage needs, what it leaves
};
StageParts parts_of_stage(const Spec& spec, size_t stage);

void forward_stage(const Spec& spec, const PackedBlock& block, size_t stage, int64_t layer,
                   std::span<const Segment> segments, float* hidden, Isa isa, Workspace& workspace, ThreadPool& pool);
// What the stage of the queries has left.
Projections projections_of(const Spec& spec, const Workspace& workspace);
// The input of a stage's site, [M][width], before it is quantized. Valid until the workspace is used.
const float* stage_input(const Spec& spec, const PackedBlock& block, size_t stage, const float* hidden, int64_t m,
                         Isa isa, Workspace& workspace, ThreadPool& pool);

}  // namespace nibble
