#include "search/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "core/markup.h"

namespace nibble::search {
namespace {

// Pixels of the drawing, and of the field inside the axes.
constexpr double kWidth = 960, kHeight = 600;
constexpr double kLeft = 84, kRight = 936, kTop = 96, kBottom = 540;
constexpr double kLegendStep = 118;
constexpr int kMostTicks = 10;

constexpr const char* kStyle = R"(<style>
:root { color-scheme: light dark; }
svg { font: 13px system-ui, "Segoe UI", sans-serif; }
.ground { fill: #ffffff; } .ink { fill: #1d2329; } .soft { fill: #5a646f; }
.grid { stroke: #e3e7eb; } .front { stroke: #1d2329; fill: none; stroke-opacity: 0.5; stroke-dasharray: 5 4; }
.head { font-size: 17px; font-weight: 600; }
.s0 { fill: #b4530a; stroke: #b4530a; } .s1 { fill: #0b62c4; stroke: #0b62c4; } .s2 { fill: #7a3fb0; stroke: #7a3fb0; }
.chosen { stroke: #1d2329; stroke-width: 2; fill: none !important; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #14181c; } .ink { fill: #e6eaee; } .soft { fill: #a3adb7; }
  .grid { stroke: #2b3238; } .front { stroke: #e6eaee; } .chosen { stroke: #e6eaee; }
  .s0 { fill: #f5a05a; stroke: #f5a05a; } .s1 { fill: #6cb0ff; stroke: #6cb0ff; }
  .s2 { fill: #c79bf2; stroke: #c79bf2; }
}
circle.outline { fill: none; stroke-opacity: 0.6; } text { stroke: none !important; }
</style>
)";

constexpr std::array<const char*, 3> kStudies = {"uniform", "knapsack", "tpe"};

bool drawable(const Point& point) { return point.measured.kl > 0 && point.measured.kl < kBroken; }

class Drawing {
 public:
  Drawing(const SearchReport& report, const std::string& title) : report_(report), title_(title) {
    double least = 1e300, most = 0, few = 1e300, many = 0;
    for (const Point& point : report.points) {
      if (!drawable(point)) continue;
      least = std::min(least, point.measured.kl);
      most = std::max(most, point.measured.kl);
      few = std::min(few, point.budget_bits);
      many = std::max(many, point.budget_bits);
    }
    if (most == 0) least = 0.1, most = 1, few = 0, many = 1;
    low_ = std::floor(std::log10(least));
    high_ = std::max(low_ + 1, std::ceil(std::log10(most)));
    first_ = std::floor(few);
    last_ = std::max(first_ + 1, std::ceil(many));
  }

  std::string run() {
    begin();
    grid();
    front();
    // The numerous first, so that the others lie on top.
    for (size_t i = kStudies.size(); i-- > 0;)
      for (const Point& point : report_.points)
        if (drawable(point) && point.study == kStudies[i]) dot(point, i);
    if (drawable(report_.chosen))
      put("<circle class=\"chosen\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"8\"><title>chosen</title></circle>\n",
          x(report_.chosen.budget_bits), y(report_.chosen.measured.kl));
    legend();
    return out_ + "</svg>\n";
  }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }
  double x(double bits) const { return kLeft + (bits - first_) / (last_ - first_) * (kRight - kLeft); }
  double y(double kl) const { return kBottom - (std::log10(kl) - low_) / (high_ - low_) * (kBottom - kTop); }

  void begin() {
    put("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{}\" height=\"{}\" role=\"img\">\n",
        kWidth, kHeight, kWidth, kHeight);
    const std::string caption =
        fmt::format("Every point is a model measured on {} tokens; the ring is the one chosen: {:.3f} bits, KL {:.5f}",
                    report_.tokens, report_.chosen.budget_bits, report_.chosen.measured.kl);
    put("<title>{}</title>\n<desc>{}</desc>\n", escaped(title_), escaped(caption));
    out_ += kStyle;
    put("<rect class=\"ground\" width=\"{}\" height=\"{}\"/>\n", kWidth, kHeight);
    put("<text class=\"ink head\" x=\"{}\" y=\"32\">{}</text>\n", kLeft, escaped(title_));
    put("<text class=\"soft\" x=\"{}\" y=\"54\">{}</text>\n", kLeft, escaped(caption));
  }

  void grid() {
    const double step = std::ceil((last_ - first_) / kMostTicks);
    for (double bits = first_; bits <= last_; bits += step) {
      put("<path class=\"grid\" d=\"M{:.1f} {}V{}\"/>", x(bits), kTop, kBottom);
      put("<text class=\"soft\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{}\">{:g}</text>\n", x(bits), kBottom + 19,
          bits);
    }
    for (double power = low_; power <= high_; ++power) {
      const double at = y(std::pow(10, power));
      put("<path class=\"grid\" d=\"M{} {:.1f}H{}\"/>", kLeft, at, kRight);
      put("<text class=\"soft\" text-anchor=\"end\" x=\"{}\" y=\"{:.1f}\">{:g}</text>\n", kLeft - 8, at + 4,
          std::pow(10, power));
    }
    put("<text class=\"soft\" text-anchor=\"middle\" x=\"{}\" y=\"{}\">bits per value that the budget counts</text>\n",
        (kLeft + kRight) / 2, kBottom + 42);
    put("<text class=\"soft\" x=\"{}\" y=\"{}\">mean KL, nats</text>\n", kLeft - 68, kTop - 12);
  }

  void front() {
    std::string path;
    for (size_t i : pareto_front(report_.points)) {
      const Point& point = report_.points[i];
      if (drawable(point))
        path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x(point.budget_bits), y(point.measured.kl));
    }
    if (!path.empty()) put("<path class=\"front\" d=\"{}\"/>\n", path);
  }

  void dot(const Point& point, size_t colour) {
    put("<circle class=\"s{}{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}: {:.3f} bits (weights {:.3f}, "
        "activations {:.3f}), KL {:.5f}</title></circle>\n",
        colour, colour == 2 ? " outline" : "", x(point.budget_bits), y(point.measured.kl), colour == 2 ? 3 : 4,
        kStudies[colour], point.budget_bits, point.weight_bits, point.activation_bits, point.measured.kl);
  }

  void legend() {
    double at = kLeft + 64;
    for (size_t i = 0; i < kStudies.size(); ++i) {
      const auto of_study = [&](const Point& point) { return point.study == kStudies[i]; };
      if (std::none_of(report_.points.begin(), report_.points.end(), of_study)) continue;
      put("<circle class=\"s{}\" cx=\"{:.1f}\" cy=\"72\" r=\"4\"/>", i, at);
      put("<text class=\"ink\" x=\"{:.1f}\" y=\"76\">{}</text>\n", at + 10, kStudies[i]);
      at += kLegendStep;
    }
    put("<path class=\"front\" d=\"M{:.1f} 72h24\"/><text class=\"ink\" x=\"{:.1f}\" y=\"76\">Pareto front</text>\n",
        at - 6, at + 24);
  }

  const SearchReport& report_;
  const std::string& title_;
  double low_, high_, first_, last_;  // powers of ten of the KL; bits
  std::string out_;
};

}  // namespace

std::string svg(const SearchReport& report, const std::string& title) { return Drawing(report, title).run(); }

}  // namespace nibble::search
