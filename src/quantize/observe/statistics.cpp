#include "quantize/observe/statistics.h"

#include <algorithm>
#include <cmath>

#include "core/checked.h"
#include "kernels/product.h"

namespace nibble {
namespace {

constexpr int64_t kBlock = 192;  // columns of a task: its sums stay in the second cache
constexpr int64_t kPart = 2048;  // tokens of a task: how often the sums are read and written

// The columns of some tokens, and where their products go.
struct Part {
  const SolveKernels& kernels;
  const float* packed;  // [panel][count][C]
  int64_t count;
  Triangle& sums;

  // Columns from here on that exist, in whole panels.
  int64_t width(int64_t begin) const { return std::min(kBlock, round_up(sums.width() - begin, kernels.f32.columns)); }
  const float* panel(int64_t column) const { return packed + column * count; }

  // products [kBlock][kBlock] += x_row' x_column over one run; of a block on the diagonal only what lies above it.
  void multiply(int64_t row, int64_t column, int64_t run, float* products) const {
    const ProductTile<float>& tile = kernels.f32;
    auto left = PackedLeft<float>::of_right(panel(row) + run * tile.columns, count, tile);
    const int64_t depth = std::min(Gram::kGramRun, count - run), stride = count * tile.columns;
    const int64_t step = row == column ? tile.columns : kBlock;
    for (int64_t j = 0; j < width(column); j += step)
      add_product(tile, left, panel(column + j) + run * tile.columns, stride, products + j, kBlock,
                  row == column ? j + step : width(row), std::min(step, width(column) - j), depth);
  }

  void add_block(int64_t row, int64_t column, AlignedBuffer<float>& products) const {
    const int64_t end = std::min(column + kBlock, sums.width());
    for (int64_t run = 0; run < count; run += Gram::kGramRun) {
      std::fill_n(products.data(), kBlock * kBlock, 0.0f);
      multiply(row, column, run, products.data());
      for (int64_t i = row; i < std::min(row + kBlock, sums.width()); ++i) {
        const int64_t begin = std::max(column, i);
        kernels.widen({products.data() + (i - row) * kBlock + begin - column, sums.row(i) + begin, end - begin});
      }
    }
  }
};

}  // namespace

int64_t Gram::scratch_bytes(int64_t width, int64_t count) {
  return right_size(solve_kernels().f32, width, std::min(kPart, count)) * static_cast<int64_t>(sizeof(float));
}

void Gram::add(const float* x, int64_t count, ThreadPool& pool) {
  AlignedBuffer<float> packed(right_size(solve_kernels().f32, width(), std::min(kPart, count)));
  for (int64_t m = 0; m < count; m += kPart) add_part(x + m * width(), std::min(kPart, count - m), packed, pool);
  tokens_ += count;
}

void Gram::add_part(const float* x, int64_t count, AlignedBuffer<float>& packed, ThreadPool& pool) {
  const SolveKernels& kernels = solve_kernels();
  const int64_t n = width(), blocks = ceil_div(n, kBlock);
  pool.run_ranges(count, kGramRun, [&](int64_t begin, int64_t end) {
    pack_right(
        kernels.f32, n, end - begin, count, [&](int64_t m) { return x + (begin + m) * n; },
        packed.data() + begin * kernels.f32.columns);
  });
  const Part part{kernels, packed.data(), count, sums_};
  std::vector<AlignedBuffer<float>> products(static_cast<size_t>(pool.size()));
  for (AlignedBuffer<float>& room : products) room = AlignedBuffer<float>(kBlock * kBlock);
  pool.run_by_thread(blocks * blocks, [&](int64_t task, int thread) {
    const int64_t row = task / blocks, column = task % blocks;
    if (row <= column) part.add_block(row * kBlock, column * kBlock, products[static_cast<size_t>(thread)]);
  });
}

Status observe_absmax(const float* x, int64_t count, std::vector<float>& absmax, std::string_view site,
                      ThreadPool& pool) {
  const auto width = static_cast<int64_t>(absmax.size());
  constexpr int64_t kColumns = 64;
  pool.run(ceil_div(width, kColumns), [&](int64_t task) {
    const int64_t begin = task * kColumns, end = std::min(width, begin + kColumns);
    for (int64_t m = 0; m < count; ++m)
      for (int64_t k = begin; k < end; ++k) {
        const float size = std::fabs(x[m * width + k]);
        float& most = absmax[static_cast<size_t>(k)];
        most = size <= most ? most : size;  // NaN replaces the maximum
        if (std::isnan(most)) return;
      }
  });
  for (int64_t k = 0; k < width; ++k)
    if (!std::isfinite(absmax[static_cast<size_t>(k)]))
      return fail(ErrorCode::failure, "input of {}: channel {} is NaN or infinite on the calibration text", site, k);
  return {};
}

}  // namespace nibble
