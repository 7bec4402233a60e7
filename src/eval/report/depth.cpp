// Errors along the depth of the model, one line per kind of layer.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/markup.h"
#include "eval/report/plot.h"
#include "eval/report/sections.h"
#include "eval/report/text.h"

namespace nibble::page {
namespace {

constexpr int kHeight = 240;
constexpr double kLabelGap = 13;  // pixels between the names at the right

using Value = std::optional<double> LayerRow::*;

// The linears of one role that have the value, in the order of the blocks.
std::vector<const LayerRow*> rows_of(const LayerReport& report, std::string_view role, Value value) {
  std::vector<const LayerRow*> rows;
  for (const LayerRow& row : report.linears)
    if (row.role == role && row.*value) rows.push_back(&row);
  std::stable_sort(rows.begin(), rows.end(), [](const LayerRow* a, const LayerRow* b) { return a->block < b->block; });
  return rows;
}

double middle_of(const LayerRow& row) { return static_cast<double>(row.block) + 0.5; }

LogScale scale_of(const LayerReport& report, Value value) {
  std::vector<double> values;
  for (const LayerRow& row : report.linears)
    if (row.*value) values.push_back(*(row.*value));
  return LogScale(values, 1e-12);
}

std::string line(const std::vector<const LayerRow*>& rows, Value value, const LogScale& scale) {
  std::vector<Place> places;
  for (const LayerRow* row : rows) {
    // Blocks between that lack the value break the line.
    if (!places.empty() && middle_of(*row) > places.back().x + 1.5)
      places.push_back({middle_of(*row) - 1, std::nullopt});
    places.push_back({middle_of(*row), scale.at(*(row->*value))});
  }
  return line_path(places, kHeight);
}

std::string points(const std::vector<const LayerRow*>& rows, const ErrorKind& kind, const LogScale& scale,
                   double blocks) {
  std::string out;
  for (const LayerRow* row : rows) {
    const double value = *(row->*kind.value);
    out += fmt::format("<circle class=\"{}\" cx=\"{}\" cy=\"{}\" r=\"{}\"><title>{}: {}</title></circle>",
                       role_class(row->role), share(middle_of(*row) / blocks), down(scale.at(value), kHeight),
                       std::isfinite(value) ? "2.5" : "5", escaped(row->name), number(value));
  }
  return out;
}

// From the last point to the edge of the plot, where the name of the line is.
std::string to_the_edge(const LayerRow& row, const ErrorKind& kind, const LogScale& scale, double blocks) {
  return fmt::format("<line class=\"{0}\" x1=\"{1}\" x2=\"100%\" y1=\"{2}\" y2=\"{2}\"/>", role_class(row.role),
                     share(middle_of(row) / blocks), down(scale.at(*(row.*kind.value)), kHeight));
}

// The name of a line beside its end.
struct EndLabel {
  std::string role;
  double y = 0;
};

std::string end_labels(const std::vector<EndLabel>& labels) {
  std::vector<double> places;
  for (const EndLabel& label : labels) places.push_back(label.y);
  places = spread(places, kLabelGap, 6, kHeight - 2);
  std::string out;
  for (size_t index = 0; index < labels.size(); ++index) {
    const EndLabel& label = labels[index];
    out += fmt::format("<path class=\"{0}\" d=\"M0 {1}L9 {2}\"/><text class=\"{0}\" x=\"13\" y=\"{2}\">{3}</text>",
                       role_class(label.role), coordinate(label.y), coordinate(places[index]),
                       escaped(label.role.substr(0, 8)));
  }
  return out;
}

std::string error_plot(const LayerReport& report, const ErrorKind& kind) {
  const LogScale scale = scale_of(report, kind.value);
  const int64_t blocks = block_count(report);
  Plot plot;
  plot.id = fmt::format("depth-{}", kind.id);
  plot.title = kind.title;
  plot.note = fmt::format("squared, as a part {}", kind.of);
  plot.description =
      fmt::format("{} of every linear layer against the number of its block, a line per role.", kind.title);
  plot.height = kHeight;
  plot.x = block_ticks(blocks);
  plot.y = scale.ticks();
  plot.x_label = "block";
  std::string lines, circles;
  std::vector<EndLabel> labels;
  for (const std::string& role : roles_of(report)) {
    const auto rows = rows_of(report, role, kind.value);
    if (rows.empty()) continue;
    lines += fmt::format("<path class=\"{}\" d=\"{}\"/>", role_class(role), line(rows, kind.value, scale));
    circles += points(rows, kind, scale, static_cast<double>(blocks));
    circles += to_the_edge(*rows.back(), kind, scale, static_cast<double>(blocks));
    labels.push_back({role, (1 - scale.at(*(rows.back()->*kind.value))) * kHeight});
  }
  plot.marks = "<g class=\"lines\">" + stretched(static_cast<double>(blocks), kHeight, lines) + circles + "</g>";
  plot.right = end_labels(labels);
  return figure(plot);
}

}  // namespace

std::string depth_section(const LayerReport& report) {
  std::string body;
  for (const ErrorKind& kind : measured_errors(report)) body += error_plot(report, kind);
  if (body.empty())
    return section("depth", "Error along the depth", "", absent("Not recorded: the model holds no measured errors."));
  if (measured_errors(report).front().id != kOutputError.id)
    body += absent("Output errors were not measured: that needs a calibration text.");
  return section("depth", "Error along the depth",
                 "<b>Good:</b> lines that run level, near one another. <b>Bad:</b> a line that climbs with depth, or "
                 "one block far above "
                 "its neighbours, whose layers deserve more bits.",
                 "<div class=\"panels\">" + body + "</div>");
}

}  // namespace nibble::page
