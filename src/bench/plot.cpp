#include "bench/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "core/markup.h"

namespace nibble::bench {
namespace {

// Pixels of the drawing and of the field inside the axes, which begins below the legend.
constexpr double kWidth = 960, kFieldHeight = 444, kBelow = 60;
constexpr double kLeft = 76, kRight = 936;
constexpr double kLegendTop = 76, kLegendLine = 20;  // baseline of its first line, and from line to line
constexpr double kCharacter = 7.2;                   // at most, of a text of 13 pixels, on average

constexpr const char* kStyle = R"(<style>
:root { color-scheme: light dark; }
svg { font: 13px system-ui, "Segoe UI", sans-serif; }
.ground { fill: #ffffff; } .ink { fill: #1d2329; } .soft { fill: #5a646f; }
.grid { stroke: #e3e7eb; } .roof { stroke: #1d2329; stroke-width: 1.5; fill: none; }
.head { font-size: 17px; font-weight: 600; }
.line { fill: none; stroke-width: 1; stroke-opacity: 0.45; }
.s0 { fill: #0b62c4; stroke: #0b62c4; } .s1 { fill: #b4530a; stroke: #b4530a; }
.s2 { fill: #7a3fb0; stroke: #7a3fb0; } .s3 { fill: #12795a; stroke: #12795a; }
.s4 { fill: #b3267a; stroke: #b3267a; } .s5 { fill: #5c6670; stroke: #5c6670; }
.s6 { fill: #c01f1f; stroke: #c01f1f; } .s7 { fill: #00798c; stroke: #00798c; }
circle.outline { fill: none; stroke-opacity: 0.7; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #14181c; } .ink { fill: #e6eaee; } .soft { fill: #a3adb7; }
  .grid { stroke: #2b3238; } .roof { stroke: #e6eaee; }
  .s0 { fill: #6cb0ff; stroke: #6cb0ff; } .s1 { fill: #f5a05a; stroke: #f5a05a; }
  .s2 { fill: #c79bf2; stroke: #c79bf2; } .s3 { fill: #5fd3a8; stroke: #5fd3a8; }
  .s4 { fill: #f58ac6; stroke: #f58ac6; } .s5 { fill: #b4bec8; stroke: #b4bec8; }
  .s6 { fill: #ff7d76; stroke: #ff7d76; } .s7 { fill: #52cfe3; stroke: #52cfe3; }
}
.line { fill: none !important; } circle.outline { fill: none !important; } text { stroke: none !important; }
</style>
)";
constexpr size_t kColours = 8;

bool drawable(double value) { return std::isfinite(value) && value > 0; }

// A logarithmic axis over whole powers of ten.
class Axis {
 public:
  Axis(double least, double most, double from, double to)
      : low_(std::floor(std::log10(least))), high_(std::ceil(std::log10(most))), from_(from), to_(to) {
    if (high_ <= low_) high_ = low_ + 1;
  }
  double at(double value) const { return from_ + (std::log10(value) - low_) / (high_ - low_) * (to_ - from_); }
  double low() const { return std::pow(10, low_); }
  double high() const { return std::pow(10, high_); }
  std::vector<double> powers() const {
    std::vector<double> out;
    for (double power = low_; power <= high_; ++power) out.push_back(std::pow(10, power));
    return out;
  }

 private:
  double low_, high_, from_, to_;
};

class Drawing {
 public:
  explicit Drawing(const Plot& plot)
      : plot_(plot),
        legend_(legend_of(plot)),
        top_(kLegendTop + kLegendLine * (legend_.empty() ? 1 : legend_.back().line + 1)),
        bottom_(top_ + kFieldHeight),
        x_(least_intensity(), most_intensity(), kLeft, kRight),
        y_(least_rate(), most_rate(), bottom_, top_) {}

  std::string run() {
    begin();
    legend();
    grid();
    roofs();
    for (const PlotSeries& series : plot_.series) draw(series);
    return out_ + "</svg>\n";
  }

 private:
  // A name, where it stands, and so which colour it has.
  struct LegendEntry {
    std::string name;
    double x;
    int line;
  };

  // From left to right, in order of appearance; what would leave the field begins a new line.
  static std::vector<LegendEntry> legend_of(const Plot& plot) {
    std::vector<LegendEntry> out;
    double x = kLeft + 8;
    int line = 0;
    for (const PlotSeries& series : plot.series) {
      if (std::any_of(out.begin(), out.end(), [&](const auto& entry) { return entry.name == series.name; })) continue;
      const double width = 10 + kCharacter * static_cast<double>(series.name.size());
      if (x > kLeft + 8 && x + width > kRight) {
        x = kLeft + 8;
        ++line;
      }
      out.push_back({series.name, x, line});
      x += width + 18;
    }
    return out;
  }

  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }

  template <class Visit>
  void each_point(Visit visit) const {
    for (const PlotSeries& series : plot_.series)
      for (const PlotPoint& point : series.points)
        if (drawable(point.operations_per_byte) && drawable(point.gops)) visit(point);
  }

  double least_intensity() const {
    double least = 1;
    each_point([&](const PlotPoint& point) { least = std::min(least, point.operations_per_byte); });
    return least;
  }
  double most_intensity() const {
    double most = 10;
    each_point([&](const PlotPoint& point) { most = std::max(most, point.operations_per_byte); });
    for (const PlotRoof& roof : plot_.roofs)
      if (drawable(roof.gops) && drawable(plot_.gbps)) most = std::max(most, 2 * roof.gops / plot_.gbps);
    return most;
  }
  double least_rate() const {
    double least = 10;
    each_point([&](const PlotPoint& point) { least = std::min(least, point.gops); });
    return least;
  }
  double most_rate() const {
    double most = 100;
    each_point([&](const PlotPoint& point) { most = std::max(most, point.gops); });
    for (const PlotRoof& roof : plot_.roofs)
      if (drawable(roof.gops)) most = std::max(most, roof.gops);
    return most;
  }

  void begin() {
    put("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{}\" height=\"{}\" role=\"img\">\n",
        kWidth, bottom_ + kBelow, kWidth, bottom_ + kBelow);
    put("<title>{}</title>\n<desc>{}</desc>\n", escaped(plot_.title), escaped(plot_.caption));
    out_ += kStyle;
    put("<rect class=\"ground\" width=\"{}\" height=\"{}\"/>\n", kWidth, bottom_ + kBelow);
    put("<text class=\"ink head\" x=\"{}\" y=\"32\">{}</text>\n", kLeft, escaped(plot_.title));
    put("<text class=\"soft\" x=\"{}\" y=\"54\">{}</text>\n", kLeft, escaped(plot_.caption));
  }

  void grid() {
    for (double value : x_.powers()) {
      put("<path class=\"grid\" d=\"M{:.1f} {}V{}\"/>", x_.at(value), top_, bottom_);
      put("<text class=\"soft\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{}\">{:g}</text>\n", x_.at(value), bottom_ + 19,
          value);
    }
    for (double value : y_.powers()) {
      put("<path class=\"grid\" d=\"M{} {:.1f}H{}\"/>", kLeft, y_.at(value), kRight);
      put("<text class=\"soft\" text-anchor=\"end\" x=\"{}\" y=\"{:.1f}\">{:.0f}</text>\n", kLeft - 8, y_.at(value) + 4,
          value);
    }
    put("<text class=\"soft\" text-anchor=\"middle\" x=\"{}\" y=\"{}\">operations per byte</text>\n",
        (kLeft + kRight) / 2, bottom_ + 42);
    put("<text class=\"soft\" x=\"{}\" y=\"{}\">GOP/s</text>\n", kLeft - 60, top_ - 12);
  }

  // Flat roofs begin where the slanting one reaches them; that one ends at the highest.
  void roofs() {
    double highest = 0;
    for (const PlotRoof& roof : plot_.roofs) {
      if (!drawable(roof.gops) || !drawable(plot_.gbps)) continue;
      highest = std::max(highest, roof.gops);
      const double ridge = std::max(roof.gops / plot_.gbps, x_.low());
      put("<path class=\"roof\" d=\"M{:.1f} {:.1f}H{}\"/>", x_.at(ridge), y_.at(roof.gops), kRight);
      put("<text class=\"ink\" text-anchor=\"end\" x=\"{}\" y=\"{:.1f}\">{}, {:.0f} GOP/s</text>\n", kRight - 4,
          y_.at(roof.gops) - 6, escaped(roof.name), roof.gops);
    }
    if (highest > 0) slanting_roof(highest);
  }

  void slanting_roof(double highest) {
    const double begin = std::max(x_.low(), y_.low() / plot_.gbps), end = highest / plot_.gbps;
    const double x0 = x_.at(begin), y0 = y_.at(begin * plot_.gbps), x1 = x_.at(end), y1 = y_.at(highest);
    put("<path class=\"roof\" d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\"/>", x0, y0, x1, y1);
    const double angle = std::atan2(y1 - y0, x1 - x0) * 180 / 3.141592653589793;
    put("<text class=\"ink\" transform=\"translate({:.1f} {:.1f}) rotate({:.1f})\" dy=\"-7\">memory, {:.1f} "
        "GB/s</text>\n",
        x0 + 0.12 * (x1 - x0), y0 + 0.12 * (y1 - y0), angle, plot_.gbps);
  }

  void draw(const PlotSeries& series) {
    const size_t colour = colour_of(series.name);
    if (series.joined) join(series, colour);
    for (const PlotPoint& point : series.points)
      if (drawable(point.operations_per_byte) && drawable(point.gops)) dot(point, colour);
  }

  void join(const PlotSeries& series, size_t colour) {
    std::string path;
    for (const PlotPoint& point : series.points)
      if (drawable(point.operations_per_byte) && drawable(point.gops))
        path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x_.at(point.operations_per_byte),
                            y_.at(point.gops));
    if (!path.empty()) put("<path class=\"s{} line\" d=\"{}\"/>\n", colour, path);
  }

  void dot(const PlotPoint& point, size_t colour) {
    const double x = x_.at(point.operations_per_byte), y = y_.at(point.gops);
    put("<circle class=\"s{}{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}</title></circle>\n", colour,
        point.prominent ? "" : " outline", x, y, point.prominent ? 3.5 : 3.0, escaped(point.title));
    if (point.label.empty()) return;
    const bool room = x + 7 + kCharacter * static_cast<double>(point.label.size()) < kWidth;
    put("<text class=\"s{}\" text-anchor=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", colour, room ? "start" : "end",
        room ? x + 7 : x - 7, y + 14, escaped(point.label));
  }

  void legend() {
    for (const LegendEntry& entry : legend_) {
      const double y = kLegendTop + kLegendLine * entry.line;
      put("<circle class=\"s{}\" cx=\"{:.1f}\" cy=\"{}\" r=\"4\"/>", colour_of(entry.name), entry.x, y - 4);
      put("<text class=\"ink\" x=\"{:.1f}\" y=\"{}\">{}</text>\n", entry.x + 10, y, escaped(entry.name));
    }
  }

  size_t colour_of(const std::string& name) const {
    const auto named = [&](const LegendEntry& entry) { return entry.name == name; };
    return static_cast<size_t>(std::find_if(legend_.begin(), legend_.end(), named) - legend_.begin()) % kColours;
  }

  const Plot& plot_;
  std::vector<LegendEntry> legend_;
  double top_, bottom_;
  Axis x_, y_;
  std::string out_;
};

}  // namespace

std::string svg(const Plot& plot) { return Drawing(plot).run(); }

}  // namespace nibble::bench
