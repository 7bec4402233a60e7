// Which single weights are kept apart from the codes: the sparse part of a layer in learned levels
// (format/linear_weight.h). Levels are learned without them.
#pragma once

#include "quantize/solve/levels.h"

namespace nibble {

// Parts of a matrix's dense weights, 0 .. 1, by what makes them worth it. They are chosen one kind after the other,
// each among the weights that are left.
struct SparseShares {
  double sensitive = 0;  // greatest importance
  double effect = 0;     // greatest importance x w^2; with the moments of the input as importance: of what goes through
  double magnitude = 0;  // greatest |w|
  double loss = 0;       // greatest importance x (w - Q(w))^2, Q: nearest of the levels learned from what is left

  bool empty() const { return sensitive + effect + magnitude + loss == 0; }
};

// Adds to the places in `form.sparse` (row_ends and columns; values stay empty). Of every kind floor(share x weights),
// the first of equals in the order of rows and columns, and none that is worth nothing. `make` learns Q's levels.
void choose_sparse(const FloatLayer& layer, LayerForm& form, const SparseShares& shares, const Importance& importance,
                   const MakeLevelFit& make, ThreadPool& pool);

// How many they come to, at most.
int64_t most_sparse(const SparseShares& shares, int64_t weights);

}  // namespace nibble
