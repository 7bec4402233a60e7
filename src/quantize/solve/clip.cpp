#include "quantize/solve/clip.h"

#include <algorithm>
#include <limits>

#include "core/checked.h"
#include "format/block_scale.h"
#include "format/linear_weight.h"
#include "kernels/product.h"

namespace nibble {
namespace {

constexpr float kLeastHalf = 0x1p-24f, kGreatestHalf = 65504;

// The grid with the scale that will be read back. A scale that its codec cannot hold becomes the nearest it can.
Grid stored_grid(Range range, const NumberFormat& format) {
  const Grid fitted = fit_grid(range, format.bits, format.offset);
  float scale = fitted.scale;
  if (format.scale == ScaleCodec::f16) scale = round_scale(std::clamp(scale, kLeastHalf, kGreatestHalf), format.scale);
  if (!format.offset || scale == fitted.scale) return Grid::make(scale, fitted.offset, format.bits);
  const float offset = std::nearbyint(-range.least * (1.0f / scale));
  return Grid::make(scale, static_cast<int32_t>(std::clamp(offset, 0.0f, static_cast<float>(most_offset(format.bits)))),
                    format.bits);
}

// What one bit can say: the sign about a centre, and the mean distance from it.
Range range_of_signs(std::span<const float> values, bool asymmetric) {
  double centre = 0, distance = 0;
  for (const float value : values) centre += static_cast<double>(value);
  centre = asymmetric && !values.empty() ? centre / static_cast<double>(values.size()) : 0;
  for (const float value : values) distance += std::fabs(static_cast<double>(value) - centre);
  if (!values.empty()) distance /= static_cast<double>(values.size());
  Range range;
  range.widen(static_cast<float>(centre - distance));
  range.widen(static_cast<float>(centre + distance));
  return range;
}

double searched_cost(std::span<const float> values, std::span<const float> salience, const Grid& grid, double norm,
                     double enough) {
  if (salience.empty() && grid.step == 1) return rounding_cost(values, grid, norm, enough);
  double sum = 0;
  for (size_t i = 0; i < values.size() && sum < enough; ++i) {
    const double error = std::fabs(static_cast<double>(grid.round(values[i])) - static_cast<double>(values[i]));
    sum +=
        (salience.empty() ? 1 : static_cast<double>(salience[i])) * (norm == 2 ? error * error : std::pow(error, norm));
  }
  return sum;
}

}  // namespace

Result<Clip> read_clip(JsonReader& parameters, bool knows_salience) {
  Clip clip;
  if (parameters.find("clip") == nullptr) return clip;
  NIBBLE_TRY(JsonReader reader, parameters.object("clip"));
  NIBBLE_TRY(clip.steps, reader.integer("steps", 1, 99, 80));
  NIBBLE_TRY(clip.norm, reader.number("norm", 0.5, 8, 2.4));
  NIBBLE_TRY(clip.widen, reader.integer("widen", 0, 99, 0));
  NIBBLE_TRY(const std::string by, reader.string("by", "error"));
  clip.by_salience = by == "salience";
  if (by != "error" && !(clip.by_salience && knows_salience))
    return fail(ErrorCode::usage, "{}: \"by\" is \"{}\"; there is {}", reader.where(), by,
                knows_salience ? "error and salience" : "error, and salience where weights are solved by gptq");
  NIBBLE_DO(reader.refuse_unknown());
  return clip;
}

double rounding_cost(std::span<const float> values, const Grid& grid, double norm, double enough) {
  constexpr size_t kAtATime = 512;
  const SolveKernels& kernels = solve_kernels();
  const double unit = std::pow(static_cast<double>(grid.scale), norm);
  CostArgs args{nullptr,
                0,
                grid.inverse,
                static_cast<float>(-grid.offset),
                static_cast<float>(grid.most - grid.offset),
                static_cast<float>(norm)};
  double sum = 0;
  for (size_t i = 0; i < values.size() && sum < enough; i += kAtATime) {
    args.values = values.data() + i;
    args.count = static_cast<int64_t>(std::min(kAtATime, values.size() - i));
    sum += unit * static_cast<double>(kernels.cost(args));  // at least zero: a sum that is enough cannot win any more
  }
  return sum;
}

double salient_error(std::span<const float> values, std::span<const float> salience, const Grid& grid) {
  return searched_cost(values, salience, grid, 2, std::numeric_limits<double>::infinity());
}

Grid choose_grid(std::span<const float> values, const NumberFormat& format, const Clip& clip, float outer,
                 std::span<const float> salience) {
  if (format.is_block()) return choose_block_grid(values, format, outer);
  const Range range = format.bits == 1 ? range_of_signs(values, format.offset) : range_of(values);
  Grid best = stored_grid(range, format);
  if (!clip.searches()) return best;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t i = -clip.widen; i < clip.steps; ++i) {
    const auto shrink = static_cast<float>(1 - static_cast<double>(i) / kClipResolution);
    const Grid grid = stored_grid({range.least * shrink, range.greatest * shrink}, format);
    const double cost = searched_cost(values, salience, grid, clip.norm, least);
    if (cost < least) {
      least = cost;
      best = grid;
    }
  }
  return best;
}

namespace {

// Sum and least of some grids' ratios.
struct RatioSum {
  double sum = 0, least = 1;
};

double clip_ratio(std::span<const float> values, const Grid& grid, const NumberFormat& format) {
  const Range range = range_of(values);
  if (range.least == range.greatest || format.bits == 1) return 1;
  return std::min(1.0, static_cast<double>(grid.scale) / static_cast<double>(stored_grid(range, format).scale));
}

RatioSum row_ratios(std::span<const float> dense, const LinearWeight& solved, int64_t n) {
  const auto columns = static_cast<int64_t>(dense.size()), size = solved.format.group_size(columns);
  RatioSum ratios;
  if (!solved.format.is_integer()) return {static_cast<double>(solved.groups()), 1};
  for (int64_t g = 0; g < solved.groups(); ++g) {
    const auto begin = static_cast<size_t>(g * size), count = static_cast<size_t>(std::min(size, columns - g * size));
    const double ratio =
        clip_ratio(dense.subspan(begin, count), solved.grid(n, g), solved.format.with_bits(solved.group_bits(g)));
    ratios.sum += ratio;
    ratios.least = std::min(ratios.least, ratio);
  }
  return ratios;
}

}  // namespace

ClipRatios clip_ratios(const FloatLayer& layer, const LinearWeight& solved, ThreadPool& pool) {
  const std::vector<int32_t> columns = dense_columns_of(solved.columns, solved.kept_columns);
  std::vector<RatioSum> rows(static_cast<size_t>(solved.rows));
  pool.run_ranges(solved.rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> dense(columns.size());
    for (int64_t n = begin; n < end; ++n) {
      const auto row = layer.row(n);
      for (size_t k = 0; k < dense.size(); ++k) dense[k] = row[static_cast<size_t>(columns[k])];
      rows[static_cast<size_t>(n)] = row_ratios(dense, solved, n);
    }
  });
  ClipRatios out;
  double sum = 0;
  for (const RatioSum& row : rows) {
    sum += row.sum;
    out.least = std::min(out.least, row.least);
  }
  if (const int64_t grids = solved.rows * solved.groups(); grids > 0) out.mean = sum / static_cast<double>(grids);
  return out;
}

}  // namespace nibble
