// The magnitudes of the channels at every site, with the kept outliers marked.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/markup.h"
#include "eval/report/plot.h"
#include "eval/report/sections.h"
#include "eval/report/text.h"
#include "measure/statistics.h"

namespace nibble::page {
namespace {

constexpr int kHeight = 150, kDepthHeight = 64;
constexpr size_t kMostColumns = 240, kMostColumnsOfMany = 144, kManySites = 160;

// What one site looks like at the resolution of the page.
struct Shape {
  const SiteRow* row = nullptr;
  std::vector<double> dense, kept;  // largest magnitude per column of the plot; kept: 0 where there is none
  double largest_dense = 0, largest_kept = 0, median = 0;
  double largest() const { return std::max(largest_dense, largest_kept); }
  double standing_out() const { return median > 0 ? largest() / median : 0; }
};

// A not-a-number is as bad as an infinity and is drawn like one.
double magnitude(float value) { return std::isnan(value) ? HUGE_VAL : std::fabs(static_cast<double>(value)); }

double median_magnitude(const std::vector<float>& values) {
  std::vector<double> magnitudes;
  for (const float value : values) magnitudes.push_back(magnitude(value));
  return median_of(std::move(magnitudes));
}

Shape shape_of(const SiteRow& row, size_t most_columns) {
  Shape shape;
  shape.row = &row;
  const size_t inputs = row.absmax.size(), columns = std::min(inputs, most_columns);
  shape.dense.assign(columns, 0);
  shape.kept.assign(columns, 0);
  const std::set<int32_t> kept(row.kept.begin(), row.kept.end());
  for (size_t channel = 0; channel < inputs; ++channel) {
    const double size = magnitude(row.absmax[channel]);
    const bool is_kept = kept.contains(static_cast<int32_t>(channel));
    double& column = (is_kept ? shape.kept : shape.dense)[channel * columns / inputs];
    column = std::max(column, size);
    double& largest = is_kept ? shape.largest_kept : shape.largest_dense;
    largest = std::max(largest, size);
  }
  shape.median = median_magnitude(row.absmax);
  return shape;
}

// The sites of one name, in the order of the blocks.
struct Panel {
  std::string site;
  std::vector<Shape> shapes;
};

std::vector<Panel> panels_of(const LayerReport& report) {
  std::vector<Panel> panels;
  const size_t most = report.sites.size() > kManySites ? kMostColumnsOfMany : kMostColumns;
  for (const SiteRow& row : report.sites) {
    if (row.absmax.empty()) continue;
    auto found = std::find_if(panels.begin(), panels.end(), [&](const Panel& panel) { return panel.site == row.site; });
    if (found == panels.end()) found = panels.insert(panels.end(), Panel{row.site, {}});
    found->shapes.push_back(shape_of(row, most));
  }
  return panels;
}

// The block to begin with: where some channel stands out most.
int64_t first_block(const std::vector<Panel>& panels) {
  const Shape* most = nullptr;
  for (const Panel& panel : panels)
    for (const Shape& shape : panel.shapes)
      if (most == nullptr || shape.standing_out() > most->standing_out()) most = &shape;
  return most == nullptr ? 0 : most->row->block;
}

// One scale for all blocks of a panel, so that blocks can be compared.
LogScale scale_of(const Panel& panel) {
  std::vector<double> values;
  double least = HUGE_VAL;
  for (const Shape& shape : panel.shapes) {
    values.insert(values.end(), {shape.largest(), shape.median});
    for (const double value : shape.dense)
      if (value > 0) least = std::min(least, value);
  }
  // A channel that is nearly dead must not flatten the others.
  double median = 0;
  for (const Shape& shape : panel.shapes) median = std::max(median, shape.median);
  if (std::isfinite(least)) values.push_back(std::max(least, median * 1e-3));
  std::erase(values, 0.0);
  return LogScale(values);
}

std::string kept_path(const Shape& shape, const LogScale& scale) {
  std::string out;
  for (size_t column = 0; column < shape.kept.size(); ++column) {
    if (shape.kept[column] <= 0) continue;
    const long from = std::lround((1 - scale.at(shape.dense[column])) * kHeight);
    const long to = std::lround((1 - scale.at(shape.kept[column])) * kHeight);
    // A line of no length still shows its round cap.
    out += fmt::format("M{} {}V{}", coordinate(static_cast<double>(column) + 0.5), std::max(from, to), to);
  }
  return out;
}

std::string spectrum(const Shape& shape, const LogScale& scale) {
  std::vector<double> heights;
  for (const double value : shape.dense) heights.push_back(scale.at(value));
  const std::string median = down(scale.at(shape.median), kHeight);
  const auto width = static_cast<double>(shape.dense.size());
  return stretched(width, kHeight,
                   fmt::format("<path class=\"dense\" d=\"{}\"/><path class=\"median\" d=\"M0 {}H{}\"/>"
                               "<path class=\"kept\" d=\"{}\"/>",
                               skyline_path(heights, kHeight), median, coordinate(width), kept_path(shape, scale)));
}

std::string chosen(const Shape& shape, int64_t first) {
  return fmt::format("class=\"of-block{}\" data-block=\"{}\"", shape.row->block == first ? " on" : "",
                     shape.row->block);
}

std::string facts(const Shape& shape) {
  const SiteRow& row = *shape.row;
  const auto inputs = static_cast<int64_t>(row.absmax.size());
  std::string out = fmt::format("largest {}, median {}", number(shape.largest()), number(shape.median));
  if (row.kept.empty()) return out + fmt::format("; none of {} channels kept", count(inputs));
  return out + fmt::format("; {} of {} channels kept, largest of the others {}", count(std::ssize(row.kept)),
                           count(inputs), number(shape.largest_dense));
}

std::vector<Tick> channel_ticks(const Panel& panel) {
  int64_t inputs = 0;
  for (const Shape& shape : panel.shapes) inputs = std::max(inputs, std::ssize(shape.row->absmax));
  return linear_ticks(static_cast<double>(inputs), 6);
}

std::string spectra(const Panel& panel, int64_t first, const std::string& id) {
  const LogScale scale = scale_of(panel);
  Plot plot;
  plot.id = id;
  plot.title = fmt::format("Input of {}", site_title(panel.site));
  plot.note = "largest |x| per channel";
  plot.description = fmt::format("Largest magnitude of every channel at the input of {}, one drawing per block.",
                                 site_title(panel.site));
  plot.height = kHeight;
  plot.x = channel_ticks(panel);
  plot.y = scale.ticks();
  for (const Shape& shape : panel.shapes)
    plot.marks += fmt::format("<g {}><title>{}: {}</title>{}</g>", chosen(shape, first), escaped(shape.row->name),
                              facts(shape), spectrum(shape, scale));
  for (const Shape& shape : panel.shapes) plot.after += fmt::format("<p {}>{}</p>", chosen(shape, first), facts(shape));
  return figure(plot);
}

// How the extremes of a site change from block to block.
struct Trend {
  const char* css_class;
  double Shape::*value;
};
constexpr Trend kTrends[] = {
    {"median-line", &Shape::median}, {"dense-line", &Shape::largest_dense}, {"kept-line", &Shape::largest_kept}};

std::string trend_line(const Panel& panel, const Trend& trend, const LogScale& scale) {
  std::vector<Place> places;
  for (const Shape& shape : panel.shapes) {
    const double value = shape.*trend.value;
    places.push_back(
        {static_cast<double>(shape.row->block) + 0.5, value > 0 ? std::optional(scale.at(value)) : std::nullopt});
  }
  return fmt::format("<path class=\"{}\" d=\"{}\"/>", trend.css_class, line_path(places, kDepthHeight));
}

std::string block_choice(const Shape& shape, int64_t blocks) {
  const auto width = 1 / static_cast<double>(blocks), block = static_cast<double>(shape.row->block);
  return fmt::format(
      "<rect class=\"choice\" data-choose=\"{}\" x=\"{}\" width=\"{}\" height=\"{}\"><title>{}: {}</title></rect>",
      shape.row->block, share(block * width), share(width), kDepthHeight, escaped(shape.row->name), facts(shape));
}

std::string trends(const Panel& panel, int64_t blocks, int64_t first, const std::string& id) {
  const LogScale scale = scale_of(panel);
  Plot plot;
  plot.id = id + "-depth";
  plot.title = "The same, block by block";
  plot.description = fmt::format("Largest kept, largest other and median magnitude at the input of {} in every block.",
                                 site_title(panel.site));
  plot.height = kDepthHeight;
  plot.x = block_ticks(blocks);
  plot.y = thinned(scale.ticks(), 15.0 / kDepthHeight);
  std::string lines;
  for (const Trend& trend : kTrends) lines += trend_line(panel, trend, scale);
  const auto cursor = share((static_cast<double>(first) + 0.5) / static_cast<double>(blocks));
  plot.marks = fmt::format("<line class=\"cursor\" x1=\"{0}\" x2=\"{0}\" y1=\"0\" y2=\"{1}\"/>", cursor, kDepthHeight);
  plot.marks += stretched(static_cast<double>(blocks), kDepthHeight, lines);
  for (const Shape& shape : panel.shapes) plot.marks += block_choice(shape, blocks);
  return figure(plot);
}

std::string picker(int64_t blocks, int64_t first) {
  return fmt::format(
      "<p class=\"picker\"><label for=\"block\">Block</label>"
      "<input id=\"block\" type=\"range\" min=\"0\" max=\"{}\" value=\"{}\" data-blocks=\"{}\" disabled>"
      "<output for=\"block\">{} of 0–{}</output></p>\n",
      blocks - 1, first, blocks, first, blocks - 1);
}

constexpr LegendEntry kLegend[] = {{"sw-kept", "kept in 16 bits"}, {"sw-dense", "others"}, {"sw-median", "median"}};

}  // namespace

std::string channels_section(const LayerReport& report) {
  const std::vector<Panel> panels = panels_of(report);
  if (panels.empty())
    return section("channels", "Channels", "",
                   absent(report.recipe.empty() ? "Not recorded: this model is not quantized."
                                                : "Not recorded: the model was quantized without a calibration text."));
  const int64_t blocks = block_count(report), first = first_block(panels);
  std::string body = blocks > 1 ? picker(blocks, first) : "";
  body += legend(kLegend);
  if (std::none_of(report.sites.begin(), report.sites.end(),
                   [&](const SiteRow& s) { return quantizes_input(report, s); }))
    body += absent("The inputs of this model are not quantized: its peaks cost nothing.");
  body += "<div class=\"panels\">";
  for (size_t index = 0; index < panels.size(); ++index) {
    const std::string id = fmt::format("channels-{}", index);
    body += "<div>" + spectra(panels[index], first, id);
    body += (blocks > 1 ? trends(panels[index], blocks, first, id) : "") + "</div>";
  }
  return section(
      "channels", "Channels",
      "<b>Good:</b> every peak that rises above the crowd carries a marker, so it is stored exactly and the rest fits "
      "a few bits. <b>Bad:</b> a tall peak without one, which stretches the grid that all other channels share.",
      body + "</div>");
}

}  // namespace nibble::page
