// The raw numbers: tables that sort by any column.
#include <fmt/format.h>

#include "core/markup.h"
#include "eval/report/sections.h"
#include "eval/report/text.h"

namespace nibble::page {
namespace {

// One cell: what is shown, and what it sorts by. An empty key sorts last, whatever the direction.
struct Cell {
  std::string shown, key;
};

Cell of_text(std::string_view text) { return {escaped(text), escaped(text)}; }
Cell of_count(int64_t value) { return {count(value), fmt::format("{}", value)}; }
Cell of_number(const std::optional<double>& value, int digits = 3) {
  if (!value) return {"–", ""};
  return {number(*value, digits), exact(*value)};
}

// Numeric columns are aligned to the right and sort from the largest first.
template <class Row>
struct Column {
  const char* title;
  const char* hint;
  bool numeric;
  Cell (*cell)(const Row&);
};

constexpr Column<LayerRow> kLinearColumns[] = {
    {"weights", "format of the weights", false, [](const LayerRow& row) { return of_text(row.weights); }},
    {"activations", "format of the inputs", false, [](const LayerRow& row) { return of_text(row.activations); }},
    {"rows", "outputs", true, [](const LayerRow& row) { return of_count(row.rows); }},
    {"columns", "inputs", true, [](const LayerRow& row) { return of_count(row.columns); }},
    {"kept", "input columns kept in 16 bits", true, [](const LayerRow& row) { return of_count(row.kept); }},
    {"bits", "stored bits per weight", true, [](const LayerRow& row) { return of_number(row.bits_per_weight); }},
    {"bytes", "stored bytes", true, [](const LayerRow& row) { return of_count(row.stored_bytes); }},
    {"weight error", "|W - W'|² / |W|²", true, [](const LayerRow& row) { return of_number(row.weight_error); }},
    {"output error", "|y - y'|² / |y|² on calibration tokens, as run", true,
     [](const LayerRow& row) { return of_number(row.output_error); }},
    {"cosine", "of the outputs y and y'", true, [](const LayerRow& row) { return of_number(row.output_cosine, 5); }},
    {"solver error", "output error of the quantized weights alone", true,
     [](const LayerRow& row) { return of_number(row.solver_error); }},
    {"rounding error", "the same, had the weights been rounded to nearest", true,
     [](const LayerRow& row) { return of_number(row.rounding_solver_error); }},
    {"mean clip", "scale of a grid over its scale without clipping, mean over the grids", true,
     [](const LayerRow& row) { return of_number(row.clip_mean); }},
    {"least clip", "the smallest such ratio", true, [](const LayerRow& row) { return of_number(row.clip_least); }},
};

std::optional<double> standing_out(const SiteRow& row) {
  if (!row.maximum || !row.median || !(*row.median > 0)) return std::nullopt;
  return *row.maximum / *row.median;
}

constexpr Column<SiteRow> kSiteColumns[] = {
    {"channels", "inputs of the site", true, [](const SiteRow& row) { return of_count(row.inputs); }},
    {"kept", "channels kept in 16 bits", true, [](const SiteRow& row) { return of_count(std::ssize(row.kept)); }},
    {"largest", "largest |x| of all channels", true, [](const SiteRow& row) { return of_number(row.maximum); }},
    {"median", "median over the channels of their largest |x|", true,
     [](const SiteRow& row) { return of_number(row.median); }},
    {"ratio", "largest / median", true, [](const SiteRow& row) { return of_number(standing_out(row)); }},
    {"kurtosis", "of all values; 3 for a normal distribution", true,
     [](const SiteRow& row) { return of_number(row.kurtosis); }},
};

std::string header(std::string_view title, std::string_view hint, bool numeric, bool sorted) {
  return fmt::format("<th scope=\"col\"{}{}><button type=\"button\" title=\"{}\">{}</button></th>",
                     numeric ? " class=\"n\"" : "", sorted ? " aria-sort=\"ascending\"" : "", hint, title);
}

std::string data_cell(const Cell& cell, bool numeric) {
  if (!numeric) return fmt::format("<td>{}</td>", cell.shown);
  return fmt::format("<td class=\"n\" data-key=\"{}\">{}</td>", cell.key, cell.shown);
}

// The first column is the name; it sorts by the order of the model.
template <class Row, size_t N>
std::string table(std::string_view id, std::string_view caption, const std::vector<Row>& rows,
                  const Column<Row> (&columns)[N]) {
  std::string head = header("name", "in the order of the model", false, true), body;
  for (const auto& column : columns) head += header(column.title, column.hint, column.numeric, false);
  for (size_t index = 0; index < rows.size(); ++index) {
    body += fmt::format("<tr><th scope=\"row\" data-key=\"{}\">{}</th>", index, escaped(rows[index].name));
    for (const auto& column : columns) body += data_cell(column.cell(rows[index]), column.numeric);
    body += "</tr>\n";
  }
  return fmt::format(
      "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-labelledby=\"{0}-c\"><table id=\"{0}\" "
      "class=\"sortable\"><caption id=\"{0}-c\">{1}</caption><thead><tr>{2}</tr></thead>\n<tbody>\n{3}</tbody></table>"
      "</div>\n",
      id, caption, head, body);
}

}  // namespace

std::string tables_section(const LayerReport& report) {
  std::string body;
  if (!report.linears.empty()) body += table("linears", "Linear layers", report.linears, kLinearColumns);
  if (!report.sites.empty()) body += table("sites", "Sites: what the layers read", report.sites, kSiteColumns);
  if (body.empty()) return section("numbers", "All numbers", "", absent("The model has no quantized layers."));
  return section("numbers", "All numbers",
                 "<b>Good:</b> errors of one order of magnitude, cosines that begin with 0.99. <b>Bad:</b> cosines "
                 "below 0.9. A click on "
                 "a heading, or Enter, sorts by it; again, the other way round.",
                 body);
}

}  // namespace nibble::page
