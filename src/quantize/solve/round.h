// Rounding to the nearest level, the solver that needs no data.
#pragma once

#include "quantize/solve/clip.h"
#include "quantize/solve/layer.h"

namespace nibble {

// Every dense weight takes the nearest level of its row's or group's grid; kept columns become float16. With a 2:4
// pattern the two weights of least magnitude of every four are dropped; grids are chosen before that.
Result<LinearWeight> round_to_nearest(const FloatLayer& layer, const LayerForm& form, const Clip& clip,
                                      ThreadPool& pool);

// Nearest rounding on the grids that `solved` already has: what a better solver is compared with.
LinearWeight round_on_grids_of(const LinearWeight& solved, const FloatLayer& layer, ThreadPool& pool);

// The grids of one row's dense weights, in stored order, in the format of `form`. `salience`: of each dense column, or
// nothing.
std::vector<Grid> choose_grids(std::span<const float> dense, const LayerForm& form, const Clip& clip,
                               std::span<const float> salience = {});

}  // namespace nibble
