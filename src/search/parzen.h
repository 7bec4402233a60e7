// The tree-structured Parzen estimator over categorical variables (Bergstra, Bardenet, Bengio, Kegl: Algorithms for
// Hyper-Parameter Optimization, NeurIPS 2011), here of a tree without branches: no variable depends on another.
//
// The trials so far are split into the better `good` part and the rest. For every variable, l is the distribution of
// its values in the good trials and g in the others, both smoothed by a prior. Some choices are drawn from l, and the
// one with the greatest product of l / g, which maximises the expected improvement, is next. Choices that were tried
// are passed over: without noise they say nothing new, and copies of the best would soon be all of the good part.
#pragma once

#include <span>
#include <vector>

#include "core/random.h"

namespace nibble::search {

struct ParzenOptions {
  int startup = 10;    // trials drawn at random before the estimator is asked
  double good = 0.1;   // part of the trials that counts as good: gamma of the paper
  int most_good = 25;  // at most so many
  int draws = 24;      // from l
  double prior = 1;    // weight of the uniform prior, in trials
};

struct ParzenTrial {
  std::vector<int> choice;  // by variable
  double objective = 0;     // greater is better
};

// `sizes`: of each variable, the number of values, at least one. The next choice: one that was tried only if all draws
// were.
std::vector<int> suggest(std::span<const int> sizes, std::span<const ParzenTrial> trials, const ParzenOptions& options,
                         Random& random);

}  // namespace nibble::search
