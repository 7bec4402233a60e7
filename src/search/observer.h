// What a calibration text shows of the float model's sites, block by block: what solvers such as GPTQ need while
// formats are tried.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/threads.h"
#include "quantize/observe/statistics.h"
#include "quantize/pipeline/samples.h"
#include "runtime/model.h"

namespace nibble::search {

// Holds the states of all tokens of the text before one block, [tokens][hidden], which move on as later blocks are
// asked for.
class Observer {
 public:
  // The model must outlive this.
  Observer(const Model& model, Samples text);

  // Of one of the block's sites (by its number in execution order): the statistics asked for, and the largest |x|.
  // `wanted`: sets of Statistics, by site. The text runs through a block once for all of its sites; a site that was
  // taken before, or an earlier block, begins anew.
  Result<SiteStatistics> take(int64_t block, size_t site, std::span<const unsigned> wanted, ThreadPool& pool);

 private:
  Status embed(ThreadPool& pool);
  // The text through block next_; `wanted` empty: nothing is looked at.
  Status pass(std::span<const unsigned> wanted, ThreadPool& pool);
  Status look(const float* x, int64_t samples, size_t site, unsigned wanted, ThreadPool& pool);
  // Begins with no statistics of the sites.
  void clear(std::span<const unsigned> wanted);

  const Model* model_;
  Samples text_;
  Spec one_block_;  // the model's, with one layer
  std::vector<Sequence> sequences_;
  Workspace workspace_;
  AlignedBuffer<float> states_;  // before block next_; none before the first call
  int64_t next_ = 0, seen_ = -1;
  std::vector<SiteStatistics> statistics_;  // of block seen_; without |x| where they were taken
};

}  // namespace nibble::search
