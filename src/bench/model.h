// A model's own roof: the least time a forward pass can take on this machine.
#pragma once

#include <map>

#include "bench/machine.h"
#include "runtime/model.h"

namespace nibble::bench {

// Tokens of one forward pass, logits that are wanted, and cached positions that attention reads (of all sequences
// together).
struct Pass {
  int64_t tokens = 0, logits = 0, positions = 0;
};

// Operations are those of the linear layers, 2 N K for each token, at the peak of the unit that each layer's kernel
// uses; behind the last block's attention only tokens whose logits are wanted go on. Bytes are the packed weights, read
// once, and the cached keys and values. Attention's own operations, norms and the like are not counted: they are what
// keeps a model below its roof.
class ModelRoof {
 public:
  // Both must outlive this.
  ModelRoof(const Model& model, Machine& machine) : model_(model), machine_(machine) {}

  // Forgets the probes so far: something else is measured from here on.
  void begin();
  // Probes memory and the units that the pass uses.
  void probe(const Pass& pass);
  // By the fastest probes since begin(). Passes that use the same kernels must have been probed.
  double least_seconds(const Pass& pass) const;

 private:
  template <class Visit>
  void each_linear(const Pass& pass, Visit visit) const;  // visit(layer, tokens), where there are tokens
  double cache_bytes_per_position() const;

  const Model& model_;
  Machine& machine_;
  std::map<const Unit*, double> peaks_;  // operations per second
  double bandwidth_ = 0;
};

}  // namespace nibble::bench
