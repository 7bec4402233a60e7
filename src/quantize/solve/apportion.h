// How many bits each group of a linear's columns gets (SliM-LLM, arXiv 2405.14917): a width for all rows, so that
// nothing has to be gathered.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quantize/solve/allocate.h"
#include "quantize/solve/clip.h"
#include "quantize/solve/gptq.h"
#include "quantize/solve/layer.h"

namespace nibble {

// The rule of the paper: all groups have `bits` but the `swapped` most salient ones, which get one more, and as many of
// the least salient, which get one less. Among equals the lower group is the more salient. A last group that is shorter
// than the others keeps its bits, so that the average stays what it is.
std::vector<uint8_t> bits_by_rank(std::span<const double> salience, std::span<const int64_t> sizes, int bits,
                                  size_t swapped);

// The least sum of costs among all bits from `least` to `most`, exactly, where no more bits are spent than `budget`
// and half a group. costs: [G][kMostWidth + 1] by group and bits; sizes: columns of each group, all alike but the last
// one, which may be shorter; budget: bits a row. Below `least` everywhere all groups get that.
std::vector<uint8_t> bits_by_cost(std::span<const double> costs, std::span<const int64_t> sizes, int least, int most,
                                  double budget);

// Columns of each group.
std::vector<int64_t> group_sizes(const NumberFormat& format, int64_t dense_columns);
// Bits of each group as those of its columns.
std::vector<uint8_t> widths_of_columns(std::span<const uint8_t> bits, std::span<const int64_t> sizes);

// Of each dense column: what GPTQ makes of a squared error in it, 1 / U_kk^2 (solve/gptq.h).
std::vector<float> column_salience(const GptqFactor& factor, std::span<const int32_t> dense);
// [G]: the sum of w^2 / U_kk^2 over a group's weights.
std::vector<double> group_salience(const FloatLayer& layer, std::span<const int32_t> dense,
                                   std::span<const float> salience, std::span<const int64_t> sizes, ThreadPool& pool);
// [G][kMostWidth + 1]: the sum of (w - Q(w))^2 / U_kk^2 in integers of each number of bits from `least` to `most`,
// their grids chosen as `clip` says. What GPTQ expects to lose, before it moves errors on. Of
// kErrorRows rows (solve/error.h), if there are more.
std::vector<double> group_costs(const FloatLayer& layer, const LayerForm& form, std::span<const int32_t> dense,
                                std::span<const float> salience, const Clip& clip, int least, int most,
                                ThreadPool& pool);

}  // namespace nibble
