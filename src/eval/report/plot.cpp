#include "eval/report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eval/report/text.h"

namespace nibble::page {
namespace {

constexpr int kAxisWidth = 52, kRightWidth = 56, kAxisHeight = 22;

std::string_view anchor(double at) {
  if (at < 0.015) return " class=\"start\"";
  if (at > 0.97) return " class=\"end\"";
  return "";
}

std::string y_labels(const Plot& plot) {
  std::string out;
  for (const Tick& tick : plot.y)
    out += fmt::format("<text x=\"{}\" y=\"{}\">{}</text>", kAxisWidth - 7, down(tick.at, plot.height), tick.text);
  return fmt::format("<svg class=\"y\" width=\"{}\" height=\"{}\" aria-hidden=\"true\">{}</svg>", kAxisWidth,
                     plot.height + kAxisHeight, out);
}

std::string grid_lines(const Plot& plot) {
  std::string out;
  if (!plot.grid) return out;
  for (const Tick& tick : plot.y) {
    const std::string y = down(tick.at, plot.height);
    out += fmt::format("<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{0}\" y2=\"{0}\"/>", y);
  }
  return out + fmt::format("<line class=\"axis\" x1=\"0\" x2=\"100%\" y1=\"{0}\" y2=\"{0}\"/>", plot.height);
}

std::string x_labels(const Plot& plot) {
  std::string out;
  for (const Tick& tick : plot.x)
    out += fmt::format("<text{} x=\"{}\" y=\"{}\"{}>{}</text>", anchor(tick.at), share(tick.at), plot.height + 15,
                       tick.minor ? " data-minor=\"\"" : "", tick.text);
  return fmt::format("<g class=\"x\" aria-hidden=\"true\">{}</g>", out);
}

std::string area(const Plot& plot) {
  return fmt::format(
      "<svg class=\"area\" width=\"100%\" height=\"{}\" role=\"img\" aria-labelledby=\"{}-t\" "
      "aria-describedby=\"{}-d\"><desc id=\"{}-d\">{}</desc>{}{}{}</svg>",
      plot.height + kAxisHeight, plot.id, plot.id, plot.id, plot.description, grid_lines(plot), plot.marks,
      x_labels(plot));
}

std::string right_column(const Plot& plot) {
  if (plot.right.empty()) return "";
  return fmt::format("<svg class=\"right\" width=\"{}\" height=\"{}\" aria-hidden=\"true\">{}</svg>", kRightWidth,
                     plot.height + kAxisHeight, plot.right);
}

}  // namespace

std::string down(double at, int height) { return coordinate((1 - at) * height); }

std::string stretched(double width, int height, std::string_view paths) {
  return fmt::format(
      "<svg width=\"100%\" height=\"{}\" viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\" "
      "aria-hidden=\"true\">{}</svg>",
      height, coordinate(width), height, paths);
}

std::string line_path(std::span<const Place> places, int height) {
  std::string out;
  bool drawing = false;
  for (const Place& place : places) {
    if (place.at) out += fmt::format("{}{} {}", drawing ? 'L' : 'M', coordinate(place.x), down(*place.at, height));
    drawing = place.at.has_value();
  }
  return out;
}

std::string skyline_path(std::span<const double> heights, int height) {
  std::string out = fmt::format("M0 {}", height);
  long before = height;
  size_t run = 0;
  for (const double at : heights) {
    const long y = std::lround((1 - at) * height);
    if (y != before) out += run > 0 ? fmt::format("h{}V{}", run, y) : fmt::format("V{}", y);
    if (y != before) run = 0;
    before = y;
    ++run;
  }
  return out + fmt::format("h{}V{}z", run, height);
}

std::string legend(std::span<const LegendEntry> entries) {
  std::string out;
  for (const LegendEntry& entry : entries)
    out += fmt::format("<span><i class=\"{}\"></i>{}</span>", entry.swatch, entry.name);
  return fmt::format("<p class=\"legend\">{}</p>", out);
}

namespace {

// Labels that touch: they stand `gap` apart, around the mean of where they want to be.
struct Cluster {
  size_t first = 0, size = 0;
  double wanted = 0;  // sum of the members' wishes for the place of the first member
  double begin(double gap, double low, double high) const {
    const double span = gap * static_cast<double>(size - 1);
    return std::max(low, std::min(wanted / static_cast<double>(size), high - span));
  }
};

}  // namespace

std::vector<double> spread(std::vector<double> places, double gap, double low, double high) {
  std::vector<size_t> order(places.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return places[a] < places[b]; });
  std::vector<Cluster> clusters;
  const auto begin = [&](const Cluster& cluster) { return cluster.begin(gap, low, high); };
  for (size_t at = 0; at < order.size(); ++at) {
    clusters.push_back({at, 1, places[order[at]]});
    while (clusters.size() > 1) {
      const Cluster last = clusters.back();
      Cluster& before = clusters[clusters.size() - 2];
      const double span = gap * static_cast<double>(before.size);
      if (begin(before) + span <= begin(last)) break;
      before.wanted += last.wanted - span * static_cast<double>(last.size);
      before.size += last.size;
      clusters.pop_back();
    }
  }
  for (const Cluster& cluster : clusters)
    for (size_t member = 0; member < cluster.size; ++member)
      places[order[cluster.first + member]] = begin(cluster) + gap * static_cast<double>(member);
  return places;
}

std::vector<Tick> thinned(const std::vector<Tick>& ticks, double gap) {
  std::vector<Tick> out;
  for (const bool minor : {false, true})
    for (const Tick& tick : ticks)
      if (tick.minor == minor &&
          std::none_of(out.begin(), out.end(), [&](const Tick& o) { return std::fabs(o.at - tick.at) < gap; }))
        out.push_back(tick);
  return out;
}

std::string figure(const Plot& plot) {
  return fmt::format(
      "<figure id=\"{}\"><figcaption><b id=\"{}-t\">{}</b> <span>{}</span></figcaption>"
      "<div class=\"plot\">{}{}{}</div>{}{}</figure>\n",
      plot.id, plot.id, plot.title, plot.note, y_labels(plot), area(plot), right_column(plot),
      plot.x_label.empty() ? "" : fmt::format("<p class=\"x-label\">{}</p>", plot.x_label), plot.after);
}

}  // namespace nibble::page
