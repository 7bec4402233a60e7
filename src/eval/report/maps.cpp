// Heat maps over blocks x roles: bits, and errors.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/markup.h"
#include "eval/report/plot.h"
#include "eval/report/sections.h"
#include "eval/report/text.h"

namespace nibble::page {
namespace {

constexpr int kRowHeight = 26, kShades = 12;
constexpr double kMostBits = 64;
constexpr int64_t kMostBlocksWithNumbers = 16, kMostBlocksWithNumbersOnPhones = 6;

// What a map shows of a linear.
struct Map {
  std::string id, title, note, description;
  std::function<std::optional<double>(const LayerRow&)> value;
  std::function<double(double)> shade;  // 0..1, the higher the stronger
  std::function<std::string(double)> text;
  std::vector<Tick> key;  // labels of the colour bar
};

int shade_number(double at) { return std::min(static_cast<int>(std::clamp(at, 0.0, 1.0) * kShades), kShades - 1); }

// The class of a cell: one of the shades, or that of what has none.
std::string cell_class(const Map& map, double value) {
  if (!std::isfinite(value)) return "shade-bad";
  return fmt::format("shade-{}", shade_number(map.shade(value)));
}

std::string cell(const Map& map, const LayerRow& row, size_t line, double blocks) {
  const auto value = map.value(row);
  const double left = static_cast<double>(row.block) / blocks;
  const int top = static_cast<int>(line) * kRowHeight;
  return fmt::format(
      "<rect class=\"cell {}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{} ({}): {}</title></rect>",
      value ? cell_class(map, *value) : "shade-none", share(left), top, share(1 / blocks), kRowHeight,
      escaped(row.name), escaped(row.weights), value ? map.text(*value) : "not measured");
}

std::string cell_text(const Map& map, const LayerRow& row, size_t line, double blocks) {
  const auto value = map.value(row);
  if (!value) return "";
  const bool strong = !std::isfinite(*value) || shade_number(map.shade(*value)) * 2 >= kShades;
  const std::string text = std::isfinite(*value) ? map.text(*value) : "!";
  return fmt::format("<text class=\"in-cell{}\" x=\"{}\" y=\"{}\">{}</text>", strong ? " on-strong" : "",
                     share((static_cast<double>(row.block) + 0.5) / blocks),
                     static_cast<int>(line) * kRowHeight + kRowHeight / 2, text);
}

std::string key(const Map& map) {
  std::string bar, labels;
  for (int shade = 0; shade < kShades; ++shade)
    bar += fmt::format("<rect class=\"shade-{}\" x=\"{}\" width=\"{}\" height=\"10\"/>", shade,
                       share(static_cast<double>(shade) / kShades), share(1.02 / kShades));
  for (const Tick& tick : map.key)
    labels += fmt::format("<text x=\"{}\" y=\"23\"{}>{}</text>", share(tick.at),
                          tick.at < 0.04   ? " class=\"start\""
                          : tick.at > 0.96 ? " class=\"end\""
                                           : "",
                          tick.text);
  return fmt::format(
      "<svg class=\"key\" width=\"100%\" height=\"28\" aria-hidden=\"true\">{}<g class=\"x\">{}</g></svg>", bar,
      labels);
}

std::vector<Tick> role_ticks(const std::vector<std::string>& roles) {
  std::vector<Tick> ticks;
  for (size_t line = 0; line < roles.size(); ++line)
    ticks.push_back(
        {1 - (static_cast<double>(line) + 0.5) / static_cast<double>(roles.size()), escaped(roles[line].substr(0, 8))});
  return ticks;
}

std::string cells(const LayerReport& report, const Map& map, const std::vector<std::string>& roles) {
  const int64_t blocks = block_count(report);
  std::string rects, texts;
  for (const LayerRow& row : report.linears) {
    const auto line = static_cast<size_t>(std::find(roles.begin(), roles.end(), row.role) - roles.begin());
    rects += cell(map, row, line, static_cast<double>(blocks));
    if (blocks <= kMostBlocksWithNumbers) texts += cell_text(map, row, line, static_cast<double>(blocks));
  }
  return rects + fmt::format("<g aria-hidden=\"true\"{}>{}</g>",
                             blocks > kMostBlocksWithNumbersOnPhones ? " class=\"roomy\"" : "", texts);
}

std::string map_plot(const LayerReport& report, const Map& map) {
  const std::vector<std::string> roles = roles_of(report);
  Plot plot;
  plot.id = map.id;
  plot.title = map.title;
  plot.note = map.note;
  plot.description = map.description;
  plot.height = static_cast<int>(roles.size()) * kRowHeight;
  plot.x = block_ticks(block_count(report));
  plot.x_label = "block";
  plot.y = role_ticks(roles);
  plot.grid = false;
  plot.marks = cells(report, map, roles);
  plot.after = key(map);
  return figure(plot);
}

std::optional<double> bits_of(const LayerRow& row) { return row.bits_per_weight; }

Map bits_map(const LayerReport& report) {
  double low = HUGE_VAL, high = 0;
  for (const LayerRow& row : report.linears) {
    if (!std::isfinite(row.bits_per_weight)) continue;
    const double bits = std::clamp(row.bits_per_weight, 0.0, kMostBits);
    low = std::min(low, bits);
    high = std::max(high, bits);
  }
  low = std::max(0.0, std::min(std::floor(low), 4.0));
  high = std::max(std::ceil(high), low + 4);
  std::vector<Tick> key;
  const double step = high - low > 16 ? 4 : high - low > 6 ? 2 : 1;
  for (double bits = low; bits <= high; bits += step) key.push_back({(bits - low) / (high - low), number(bits, 1)});
  return {"map-bits",
          "Bits per weight",
          "stored, with scales and kept columns",
          "Stored bits per weight of every linear layer, a row per role and a column per block.",
          bits_of,
          [low, high](double bits) { return (bits - low) / (high - low); },
          [](double bits) { return number(bits); },
          key};
}

Map error_map(const LayerReport& report, const ErrorKind& kind) {
  const auto value = kind.value;
  std::vector<double> values;
  for (const LayerRow& row : report.linears)
    if (row.*value) values.push_back(*(row.*value));
  const LogScale scale(values, 1e-12);
  return {fmt::format("map-{}", kind.id),
          std::string(kind.title),
          fmt::format("as a part {}", kind.of),
          fmt::format("{} of every linear layer, a row per role and a column per block.", kind.title),
          [value](const LayerRow& row) { return row.*value; },
          [scale](double error) { return scale.at(error); },
          [](double error) { return number(error, 2); },
          scale.ticks()};
}

}  // namespace

std::string maps_section(const LayerReport& report) {
  if (report.linears.empty())
    return section("maps", "Where the bits and the errors are", "", absent("The model has no quantized layers."));
  std::string body = map_plot(report, bits_map(report));
  for (const ErrorKind& kind : measured_errors(report)) body += map_plot(report, error_map(report, kind));
  return section("maps", "Where the bits and the errors are",
                 "<b>Good:</b> layers with strong error colours also have strong bit colours, or no cell stands out at "
                 "all. <b>Bad:</b> "
                 "a strong error where bits are few, or a whole column of strong errors: a block that lost its grip.",
                 body);
}

}  // namespace nibble::page
