#include "quantize/observe/statistics.h"

#include <algorithm>
#include <cmath>

#include "core/checked.h"
#include "core/hadamard.h"
#include "format/linear_weight.h"
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

namespace {

// The columns as the rotation takes them together, and each kept one by itself.
std::vector<std::vector<int32_t>> pieces_of(int64_t width, std::span<const int32_t> kept, int64_t rotation) {
  std::vector<std::vector<int32_t>> pieces;
  const std::vector<int32_t> dense = dense_columns_of(width, kept);
  for (size_t begin = 0, size = static_cast<size_t>(rotation); begin < dense.size(); begin += size) {
    while (size > dense.size() - begin) size /= 2;
    const auto first = dense.begin() + static_cast<std::ptrdiff_t>(begin);
    pieces.emplace_back(first, first + static_cast<std::ptrdiff_t>(size));
  }
  for (int32_t column : kept) pieces.push_back({column});
  return pieces;
}

// The tile of two pieces, rotated from both sides.
void rotate_tile(Triangle& sums, const std::vector<int32_t>& rows, const std::vector<int32_t>& columns) {
  const auto m = static_cast<int64_t>(rows.size()), n = static_cast<int64_t>(columns.size());
  std::vector<double> tile;
  tile.reserve(rows.size() * columns.size());
  for (int32_t i : rows)
    for (int32_t j : columns) tile.push_back(sums.at(i, j));
  for (int64_t i = 0; i < m; ++i) rotate(tile.data() + i * n, n, n);
  for (int64_t j = 0; j < n; ++j) rotate(tile.data() + j, m, m, n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const int32_t a = rows[static_cast<size_t>(i)], b = columns[static_cast<size_t>(j)];
      if (&rows != &columns || a <= b) sums.row(std::min(a, b))[std::max(a, b)] = tile[static_cast<size_t>(i * n + j)];
    }
}

}  // namespace

void Gram::rotate(std::span<const int32_t> kept, int64_t rotation, ThreadPool& pool) {
  const auto pieces = pieces_of(width(), kept, rotation);
  pool.run(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
    for (size_t j = static_cast<size_t>(i); j < pieces.size(); ++j)
      rotate_tile(sums_, pieces[static_cast<size_t>(i)], pieces[j]);
  });
}

namespace {

void rotate_squares(SiteStatistics& statistics, std::span<const int32_t> kept, int64_t rotation) {
  std::vector<double>& squares = statistics.squares;
  for (const std::vector<int32_t>& piece : pieces_of(static_cast<int64_t>(squares.size()), kept, rotation)) {
    double sum = 0;
    for (const int32_t column : piece) sum += squares[static_cast<size_t>(column)];
    for (const int32_t column : piece)
      squares[static_cast<size_t>(column)] =
          statistics.gram.empty() ? sum / static_cast<double>(piece.size()) : statistics.gram.at(column, column);
  }
}

}  // namespace

void rotate(SiteStatistics& statistics, std::span<const int32_t> kept, int64_t rotation, ThreadPool& pool) {
  if (rotation == 0) return;
  if (!statistics.gram.empty()) statistics.gram.rotate(kept, rotation, pool);
  if (!statistics.squares.empty()) rotate_squares(statistics, kept, rotation);
  if (statistics.gram.empty()) return;
  if (statistics.absmax.empty()) return;
  const auto tokens = static_cast<double>(statistics.gram.tokens());
  for (int32_t column : dense_columns_of(statistics.gram.width(), kept))
    statistics.absmax[static_cast<size_t>(column)] =
        static_cast<float>(std::sqrt(std::max(0.0, statistics.gram.at(column, column)) / tokens));
}

void observe_squares(const float* x, int64_t count, std::vector<double>& squares, ThreadPool& pool) {
  const auto width = static_cast<int64_t>(squares.size());
  constexpr int64_t kColumns = 64;
  pool.run_ranges(width, kColumns, [&](int64_t begin, int64_t end) {
    for (int64_t m = 0; m < count; ++m)
      for (int64_t k = begin; k < end; ++k) {
        const auto value = static_cast<double>(x[m * width + k]);
        squares[static_cast<size_t>(k)] += value * value;
      }
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
