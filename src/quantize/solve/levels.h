// Levels that are learned from the weights they will stand for: the tables of a layer in a format of learned levels,
// as LinearWeight::levels has them. Which levels are good for one run of weights is a LevelFit's business: k-means
// (solve/kmeans.h), binary codings (solve/binary.h), two magnitudes (solve/bell.h). Here runs are cut out of the layer:
// rows, columns or groups.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "quantize/solve/layer.h"

namespace nibble {

// How much the squared error of each weight counts: all alike, or by channel, or weight by weight.
struct Importance {
  std::vector<float> channels;     // [K], or nothing
  std::span<const float> weights;  // [N x K], or nothing; not owned
  int64_t width = 0;               // K, with `weights`

  bool equal() const { return channels.empty() && weights.empty(); }
  // Of columns of row n. columns: original ones; out: as many.
  void row(int64_t n, std::span<const int32_t> columns, std::span<float> out) const;
};

// The levels of one run, ascending. weights: as many as values, or none for equal ones; 0 leaves a
// value out. Makes one for each thread, which may keep memory.
using LevelFit =
    std::function<void(std::span<const float> values, std::span<const float> weights, std::span<float> levels)>;
using MakeLevelFit = std::function<LevelFit()>;
LevelFit make_kmeans();

// All tables of the layer in `form.weights`, of the dense weights that are not in `form.sparse`. A column of more than
// kTableBits (form.widths) has no levels, and the exponent of fit_exponent().
LearnedLevels learn_levels(const FloatLayer& layer, const LayerForm& form, const Importance& importance,
                           const MakeLevelFit& make, ThreadPool& pool);

// The exponent under which integers of `bits` bits have the least squared error: of the one that holds the largest
// value and the one below it.
struct ExponentFit {
  int exponent;
  double cost;
};
ExponentFit fit_exponent(std::span<const float> values, std::span<const float> weights, int bits);

// A quantized layer with its tables, every code zero, and with the places of its sparse part: those of the form, or
// tables by unweighted k-means where the form has none. Levels are rounded to integers under the form's exponents.
LinearWeight begin_layer(const FloatLayer& layer, const LayerForm& form, ThreadPool& pool);

}  // namespace nibble
