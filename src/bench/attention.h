// Attention as a model runs it: new keys rotated and stored, scores, exponentials, weighted values.
#pragma once

#include <vector>

#include "bench/measure.h"
#include "runtime/attention.h"

namespace nibble::bench {

// Operations: two multiply-adds for each head, value of a head and pair of a query and a position it sees. Bytes: the
// cached keys and values once, what is projected and what comes out.
Work work_of(const AttentionTask& task, const AttentionFormats& formats);

// One layer after the other of a sequence whose cache holds the task's context; as many layers as fill the rotation,
// so that decoding reads from memory.
class AttentionLayers {
 public:
  AttentionLayers(const AttentionTask& task, const AttentionKernelRow& kernel, const Plan& plan, ThreadPool& pool);

  CallTime call();

 private:
  void fill(const AttentionRow& row);
  Projections projections() const;

  AttentionTask task_;
  Isa isa_;
  ThreadPool& pool_;
  Spec spec_;
  Sequence sequence_;
  PositionTables positions_;
  AttentionScratch scratch_;
  std::vector<float> projected_, y_;  // q, k and v of a token side by side
  int64_t next_ = 0;
};

// Whether attend() runs this row when it is told to keep to the row's instruction set.
bool runs(const AttentionKernelRow& kernel);

Measurement measure_attention(Machine& machine, const AttentionTask& task, const AttentionKernelRow& kernel,
                              const Plan& plan);

}  // namespace nibble::bench
