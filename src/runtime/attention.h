// Causal attention of a batch: the tokens' keys and values go into their sequences, then every query sees what its
// sequence holds up to its own position.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/cpu.h"
#include "core/threads.h"
#include "model/spec.h"
#include "runtime/positions.h"
#include "runtime/sequence.h"

namespace nibble {

// What the q, k and v projections of M tokens gave: rows of heads * head_dim, and twice of kv_heads * head_dim values,
// each row `stride` values after the one before. Rotary positions are not yet in them.
struct Projections {
  const float *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;
};

// Scratch of attend(), reused from call to call; one caller at a time.
struct AttentionScratch {
  // How the work on one segment is cut.
  struct Part {
    int64_t first_row;   // of the batch
    int64_t rows;        // queries of one key and value head that one task takes
    int64_t chunks;      // tasks for one key and value head
    int64_t first_task;  // the segments' tasks follow one another
    int64_t first_page;  // and so do the tasks of storing, for every head by page
  };
  std::vector<Part> parts;
  AlignedBuffer<float> floats;  // by thread
};

// y [M][heads * head_dim]: each query head's values, weighted by softmax(q . k / sqrt(head_dim)) over the positions up
// to the token's own. The M tokens are those of the segments, in order, each with room in its sequence; their keys and
// values are stored in cache layer `layer`. `positions` holds entries up to the last position.
//
// The query heads that share a key and value head, and as many tokens as the scratch of a core's cache allows, share
// one pass over it. Threads take (sequence, key and value head, run of queries) one after the other; results depend on
// none of this.
void attend(const Spec& spec, int64_t layer, std::span<const Segment> segments, const Projections& from,
            const PositionTables& positions, Isa isa, AttentionScratch& scratch, float* y, ThreadPool& pool);

}  // namespace nibble
