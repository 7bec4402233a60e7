#include "quantize/solve/clip.h"

#include <algorithm>
#include <limits>

#include "format/linear_weight.h"

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
  return Grid::make(scale, static_cast<int32_t>(std::clamp(offset, 0.0f, static_cast<float>(fitted.most))),
                    format.bits);
}

}  // namespace

Result<Clip> read_clip(JsonReader& parameters) {
  Clip clip;
  if (parameters.find("clip") == nullptr) return clip;
  NIBBLE_TRY(JsonReader reader, parameters.object("clip"));
  NIBBLE_TRY(clip.steps, reader.integer("steps", 1, 99, 80));
  NIBBLE_TRY(clip.norm, reader.number("norm", 0.5, 8, 2.4));
  NIBBLE_DO(reader.refuse_unknown());
  return clip;
}

double rounding_cost(std::span<const float> values, const Grid& grid, double norm, double enough) {
  double sum = 0;
  for (float value : values) {
    const double error = std::fabs(static_cast<double>(grid.round(value)) - static_cast<double>(value));
    sum += norm == 2 ? error * error : std::pow(error, norm);
    if (sum >= enough) break;  // every term is at least zero: it cannot win any more
  }
  return sum;
}

Grid choose_grid(std::span<const float> values, const NumberFormat& format, const Clip& clip) {
  const Range range = range_of(values);
  Grid best = stored_grid(range, format);
  if (clip.steps == 1) return best;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < clip.steps; ++i) {
    const auto shrink = static_cast<float>(1 - static_cast<double>(i) / kClipResolution);
    const Grid grid = stored_grid({range.least * shrink, range.greatest * shrink}, format);
    const double cost = rounding_cost(values, grid, clip.norm, least);
    if (cost < least) {
      least = cost;
      best = grid;
    }
  }
  return best;
}

}  // namespace nibble
