// Choosing the scale of a run of weights: from its largest value, or by searching for a smaller range that rounds
// better. Encoder policy; decoding never asks how a scale was chosen.
#pragma once

#include <span>

#include "core/json.h"
#include "core/result.h"
#include "core/threads.h"
#include "format/grid.h"
#include "format/number_format.h"
#include "quantize/solve/layer.h"

namespace nibble {

// The range times p = 1 - i/100 for i in [-widen, steps); the p with the least sum of |rounded - w|^norm wins, the
// largest p among equals. One step and nothing wider: no search. (arXiv 2310.09259, section 4, with 80 steps and norm
// 2.4.) `by_salience`: each term counts by what GPTQ makes of an error in its column, 1 / U_kk^2 (solve/gptq.h).
struct Clip {
  int64_t steps = 1;
  double norm = 2.4;
  int64_t widen = 0;
  bool by_salience = false;

  bool searches() const { return steps > 1 || widen > 0; }
};

inline constexpr double kClipResolution = 100;

// The value of a step's "clip": an object {"steps": 1..99, "norm": 0.5..8, "widen": 0..99, "by": "error" | "salience"};
// absent or null: no clipping. "salience" is for steps that know it.
Result<Clip> read_clip(JsonReader& parameters, bool knows_salience);

// The grid of a weight format for one run of values that share a scale, with the scale already rounded to what the
// format stores. `format` has codes; block formats go by their own rule, under the layer's outer scale. One bit: the
// levels lie the mean distance about the mean, or about zero without an offset. `salience`: of each value, or nothing.
Grid choose_grid(std::span<const float> values, const NumberFormat& format, const Clip& clip, float outer = 1,
                 std::span<const float> salience = {});

// Sum of salience * (rounded - w)^2.
double salient_error(std::span<const float> values, std::span<const float> salience, const Grid& grid);

// Sum of |rounded - w|^norm on a grid of integers; may stop once the sum reaches `enough`.
double rounding_cost(std::span<const float> values, const Grid& grid, double norm, double enough);

// How much of the weights' range the grids of a solved layer hold. The ratio of one grid is its scale over the scale
// that the original weights of its run would get without clipping: the p that `Clip` searches for, whether the grid
// is symmetric or not. 1 where nothing is clipped: also for a run of zeros, for a grid with room to spare, and for
// levels that are not integers under a float scale.
struct ClipRatios {
  double mean = 1, least = 1;  // over the grids of all rows
};
ClipRatios clip_ratios(const FloatLayer& layer, const LinearWeight& solved, ThreadPool& pool);

}  // namespace nibble
