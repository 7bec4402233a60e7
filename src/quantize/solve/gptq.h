// Rounding column by column, each error made good by the columns that are still to come (GPTQ, arXiv 2210.17323), with
// columns that are never rounded and take up what is left (QUIK, arXiv 2310.09259), and with joint pruning of two in
// four (SparseGPT, arXiv 2301.00774).
//
// For a layer with input x the solver lowers the expected |(W - W') x|^2. With H the Gram matrix of x, damped, and U
// the upper Cholesky factor of its inverse, column k of the processing order is rounded to q and the rest of the row
// updated:  e = (w_k - q) / U_kk,  w_c -= e U_kc for c >= k.
#pragma once

#include <string_view>

#include "quantize/observe/statistics.h"
#include "quantize/solve/clip.h"
#include "quantize/solve/layer.h"

namespace nibble {

enum class ColumnOrder : uint8_t {
  natural,     // stored order
  kept_last,   // ascending largest |x|; stored order when nothing is kept
  activation,  // descending diagonal of H
};

// Columns in the order in which they are solved: dense ones first, kept ones last (in ascending largest |x| for
// kept_last, else ascending). `dense_in_stored_order` is forced on the dense columns by a 2:4 pattern. Ties keep the
// lower column first. absmax is read for kept_last only.
std::vector<int32_t> column_order(ColumnOrder order, bool dense_in_stored_order, std::span<const int32_t> kept,
                                  std::span<const float> absmax, const Gram& gram);

// The part of the work that all linears of a site share.
struct GptqFactor {
  std::vector<int32_t> order;  // original column at each position
  Triangle upper;              // U, by position
  std::vector<uint8_t> dead;   // by original column: its input is always zero
  double damp = 0;             // that was really used
};

// H = (2 / tokens) x'x, its dead columns given a diagonal of 1, plus damp * mean(diagonal). When that is not positive
// definite damping is raised tenfold (from at least 1e-4) up to 10; after that a `failure` naming the layer.
Result<GptqFactor> factorise(const Gram& gram, std::vector<int32_t> order, double damp, std::string_view name,
                             ThreadPool& pool);
// Memory that gptq() needs beside its arguments and its result, at most.
int64_t gptq_scratch_bytes(int64_t rows, int64_t columns, int threads);

struct GptqOptions {
  ColumnOrder order = ColumnOrder::natural;
  int64_t block = 128;  // columns whose updates of later columns are done together: speed, not results
  Clip clip;
  // Weights of dead columns become zero, as published; else they are rounded like others, which costs nothing and is
  // right on text where the column is not dead.
  bool zero_dead = true;
};

// Scales are chosen before anything is updated, from the original weights of the dense columns; only groups solved in
// natural order are fitted when the solver reaches them, to the weights as they are then. Learned levels are those of
// the form (solve/levels.h); weights that are kept apart take over what their level leaves. With a 2:4 pattern the two
// columns of every four with the least w^2 / U_kk^2 are dropped when the solver reaches the four (block must be a
// multiple of 4). Kept columns are rounded to float16 at the end.
Result<LinearWeight> gptq(const FloatLayer& layer, const LayerForm& form, const GptqFactor& factor,
                          const GptqOptions& options, ThreadPool& pool);

}  // namespace nibble
