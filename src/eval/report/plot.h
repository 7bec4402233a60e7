// A plot that follows the width of the window: places across are percentages and places down are pixels, so that
// letters and strokes keep their size on a phone.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/report/scale.h"

namespace nibble::page {

// All texts are HTML: escape what comes from a model.
struct Plot {
  std::string id;           // unique on the page
  std::string title, note;  // the note says unit and scale
  std::string description;  // for those who do not see the picture
  int height = 200;         // pixels, without the labels of the horizontal axis
  std::vector<Tick> x, y;
  std::string x_label;
  bool grid = true;   // lines across at the ticks of y
  std::string marks;  // SVG
  std::string right;  // SVG in a column of pixels on the right side; empty: no such column
  std::string after;  // HTML below the plot
};
std::string figure(const Plot& plot);

// Pixels from the top, for 0..1 upward.
std::string down(double at, int height);

// A drawing of `width` x `height` units stretched over the whole plot area. For paths only: letters would be stretched.
std::string stretched(double width, int height, std::string_view paths);

// A line through the places (x in units of the drawing, at 0..1 upward), broken where there is none.
struct Place {
  double x = 0;
  std::optional<double> at;
};
std::string line_path(std::span<const Place> places, int height);

// The outline of a row of columns of width 1, given how high each is (0..1), down to the bottom: to be filled.
std::string skyline_path(std::span<const double> heights, int height);

// One entry per name: a swatch of the CSS class, and the name.
struct LegendEntry {
  std::string_view swatch, name;
};
std::string legend(std::span<const LegendEntry> entries);

// Moves labels apart so that neighbours are at least `gap` apart, within [low, high] if they fit. Keeps the order.
std::vector<double> spread(std::vector<double> places, double gap, double low, double high);

// Of the ticks, those that are at least `gap` (a part of the axis) apart; minor ones yield to the others.
std::vector<Tick> thinned(const std::vector<Tick>& ticks, double gap);

}  // namespace nibble::page
