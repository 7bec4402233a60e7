// What every solver of a linear layer is given and what it fills, row by row.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/threads.h"
#include "format/linear_weight.h"

namespace nibble {

// A linear layer to be quantized. `values` is row-major N x K.
struct FloatLayer {
  std::string name;  // starts error messages
  int64_t rows = 0, columns = 0;
  std::vector<float> values;
  std::vector<float> bias;

  std::span<const float> row(int64_t n) const {
    return std::span(values).subspan(static_cast<size_t>(n * columns), static_cast<size_t>(columns));
  }
};

// Decodes a layer to float32, rows in parallel. `failure` naming the layer and the element when a value is NaN or
// infinite.
Result<FloatLayer> float_layer(const LinearWeight& weight, std::string name, ThreadPool& pool);

// W_dense <- W_dense T (format/linear_weight.h): the layer as its rotated input sees it, in the basis in which it is
// solved, stored and compared with what is stored.
void rotate(FloatLayer& layer, std::span<const int32_t> kept, int64_t rotation, ThreadPool& pool);

// Tables of learned levels before their levels are rounded to integers, and the least exponents that these can have.
// With tables by column the linears that read the same input agree on the greatest of theirs, so that one quantized
// input serves all.
struct LearnedLevels {
  std::vector<float> levels;      // as LinearWeight has them
  std::vector<int8_t> exponents;  // one for each table
};

// How a layer is to be stored.
struct LayerForm {
  NumberFormat weights;  // with codes
  NumberFormat activations;
  std::vector<int32_t> kept;         // ascending columns that stay in 16 bits
  bool sparse24 = false;             // needs a number of dense columns that 4 divides
  Levels kept_levels = Levels::f16;  // or bf16
  float outer = 1;                   // for formats with an outer scale
  int64_t rotation = 0;              // that the layer's dense columns have been through
  std::vector<uint8_t> widths{};     // bits of each dense column, where the format leaves them open
  LearnedLevels learned{};           // of a format with learned levels; empty: to be learned
  SparseWeights sparse{};            // row_ends and columns of the weights that are kept apart, or nothing
};

// Solved values of one row, dense columns in stored order.
struct SolvedRow {
  std::vector<uint8_t> codes;    // I
  std::vector<Grid> grids;       // G; columns of learned levels share theirs, so that rows need none
  std::vector<uint8_t> present;  // I, only with a 2:4 pattern: exactly two of every four
  std::vector<float> kept;       // |kept|
  std::vector<float> sparse;     // the weights of row n that are kept apart, in order

  SolvedRow(const LinearWeight& weight, int64_t n);
  // What a level leaves of the weight at dense column `column` is kept apart if the place is among those of row n:
  // rounded to bf16 and returned; 0 elsewhere.
  double set_apart(const LinearWeight& weight, int64_t n, int32_t column, double left);
};

// A quantized layer of the right sizes, every code and every learned level zero, without a sparse part.
LinearWeight empty_layer(const FloatLayer& layer, const LayerForm& form);
// Packs row n. Distinct rows may be stored by different threads at once.
void store_row(LinearWeight& weight, int64_t n, const SolvedRow& row);
// `failure` naming the layer when a kept value does not fit float16.
Status check_kept(const LinearWeight& weight, std::string_view name);

// Marks two of four as present: the greater ones of `worth`, the later one among equals. present: 4 flags.
void choose_two_of_four(std::span<const double, 4> worth, std::span<uint8_t, 4> present);

}  // namespace nibble
