// A roofline plot: how fast kernels run against how much work they have for every byte, under the roofs of the machine.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace nibble::bench {

// A horizontal roof: a multiplier at its peak.
struct PlotRoof {
  std::string name;  // "avx512vnni int8"
  double gops = 0;
};

struct PlotPoint {
  double operations_per_byte = 0, gops = 0;
  std::string title;      // shown where the pointer rests
  std::string label;      // written beside it; usually empty
  bool prominent = true;  // filled; else an outline
};

// Points of one colour, in the order of `series`; joined by a line where `joined` says so.
struct PlotSeries {
  std::string name;  // in the legend: series of one name have one colour and one entry
  bool joined = false;
  std::vector<PlotPoint> points;
};

struct Plot {
  std::string title, caption;
  double gbps = 0;  // the slanting roof
  std::vector<PlotRoof> roofs;
  std::vector<PlotSeries> series;
};

// An SVG document, legible on light and dark ground; both axes logarithmic. Points and roofs that are not positive are
// left out.
std::string svg(const Plot& plot);

}  // namespace nibble::bench
