#include "roofline.h"

#include <charconv>
#include <map>

namespace nibble::cli {
namespace {

// Three significant digits, as 1234 or 12.3 or 0.123.
std::string figure(double value) {
  if (value >= 100) return fmt::format("{:.0f}", value);
  return value >= 10 ? fmt::format("{:.1f}", value) : fmt::format("{:.2f}", value);
}

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }
const char* limit_of(const RoofFigures& row) { return row.memory_bound ? "memory" : "compute"; }

std::string formats_of(const RooflineRow& row) {
  const std::string out = row.weights + " x " + row.activations;
  return row.kept > 0 ? fmt::format("{}, {} kept in {}", out, row.kept, row.kept_as) : out;
}

std::string heads_of(const AttentionRoofRow& row) {
  const std::string out = fmt::format("{} heads of {}", row.heads, row.head_dim);
  return row.kv_heads < row.heads ? fmt::format("{}, {} of keys and values", out, row.kv_heads) : out;
}

// `null` where there is no such unit.
Json peak_json(double gops) { return gops > 0 ? Json(gops) : Json(); }

Json unit_json(const UnitPeak& unit) {
  return {{"isa", unit.isa}, {"type", unit.arithmetic}, {"instruction", unit.instruction}, {"gops", unit.gops}};
}

Json row_json(const RooflineRow& row) {
  return {{"kernel", row.kernel},
          {"m", row.m},
          {"n", row.n},
          {"k", row.k},
          {"weights", row.weights},
          {"activations", row.activations},
          {"kept_columns", row.kept},
          {"kept_as", row.kept > 0 ? Json(row.kept_as) : Json()},
          {"gops", row.gops},
          {"gbps", row.gbps},
          {"share", row.share},
          {"middle_share", row.middle_share},
          {"prepare_share", row.prepare_share},
          {"bound", limit_of(row)},
          {"unit", row.unit},
          {"unit_gops", row.peak_gops},
          {"bandwidth", row.bandwidth_gbps},
          {"operations_per_byte", row.operations_per_byte},
          {"seconds", row.seconds},
          {"isa", row.isa},
          {"chosen", row.chosen}};
}

Json row_json(const AttentionRoofRow& row) {
  return {{"kernel", row.kernel},
          {"m", row.m},
          {"context", row.context},
          {"heads", row.heads},
          {"kv_heads", row.kv_heads},
          {"head_dim", row.head_dim},
          {"cache", row.cache},
          {"gops", row.gops},
          {"gbps", row.gbps},
          {"share", row.share},
          {"middle_share", row.middle_share},
          {"bound", limit_of(row)},
          {"unit", row.unit},
          {"unit_gops", row.peak_gops},
          {"bandwidth", row.bandwidth_gbps},
          {"operations_per_byte", row.operations_per_byte},
          {"seconds", row.seconds},
          {"isa", row.isa},
          {"chosen", row.chosen}};
}

Json row_json(const QuantizeRoofRow& row) {
  return {{"kernel", row.kernel},
          {"m", row.m},
          {"n", row.n},
          {"k", row.k},
          {"weights", row.weights},
          {"activations", row.activations},
          {"kept_columns", row.kept},
          {"gbps", row.gbps},
          {"share", row.share},
          {"middle_share", row.middle_share},
          {"bandwidth", row.bandwidth_gbps},
          {"seconds", row.seconds},
          {"gemm", row.gemm},
          {"share_of_gemm", row.of_gemm},
          {"isa", row.isa},
          {"chosen", row.chosen}};
}

Json row_json(const SolveRoofRow& row) {
  return {{"kernel", row.kernel},
          {"m", row.m},
          {"n", row.n},
          {"k", row.k},
          {"gops", row.gops},
          {"gbps", row.gbps},
          {"share", row.share},
          {"middle_share", row.middle_share},
          {"bound", limit_of(row)},
          {"unit", row.unit},
          {"unit_gops", row.peak_gops},
          {"bandwidth", row.bandwidth_gbps},
          {"operations_per_byte", row.operations_per_byte},
          {"seconds", row.seconds},
          {"isa", row.isa}};
}

template <class Row>
Json rows_json(const std::vector<Row>& rows) {
  Json out = Json::array();
  for (const Row& row : rows) out.push_back(row_json(row));
  return out;
}

std::string peaks_text(const RooflineReport& report) {
  std::string out = fmt::format("{} on {} threads, 10^9 per second:\n", report.isa, report.threads);
  for (const UnitPeak& unit : report.units)
    out += fmt::format("  {:<22} {:>8} operations ({})\n", unit.arithmetic + ", " + unit.isa, figure(unit.gops),
                       unit.instruction);
  out += fmt::format("  {:<22} {:>8} bytes\n  {:<22} {:>8} bytes\n", "reading", figure(report.bandwidth), "copying",
                     figure(report.copy));
  return out;
}

// "amx int8 5700, ... GOP/s; reading 16.1, copying 8.0 GB/s"
std::string peaks_line(const RooflineReport& report) {
  std::string out;
  for (const UnitPeak& unit : report.units)
    out += fmt::format("{}{} {} {}", out.empty() ? "" : ", ", unit.isa, unit.arithmetic, figure(unit.gops));
  return out + fmt::format(" GOP/s; reading {}, copying {} GB/s", figure(report.bandwidth), figure(report.copy));
}

std::string note_of(const RooflineReport& report) {
  if (!report.quick) return "";
  return "Quick: weights lie in the caches and slices are few. To see that it works, not to quote.\n";
}

const char* star(bool chosen) { return chosen ? "  *" : ""; }

// Lines under a heading that is written again only when it changes.
class Sections {
 public:
  explicit Sections(std::string head) : head_(std::move(head)) {}

  void add(const std::string& title, const std::string& line) {
    if (title != last_) text_ += "\n" + title + "\n" + head_;
    last_ = title;
    text_ += line;
  }
  const std::string& text() const { return text_; }

 private:
  std::string head_, last_, text_;
};

std::string linear_table(const RooflineReport& report) {
  Sections out(fmt::format("{:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9}\n", "tokens", "GOP/s", "GB/s", "share", "middle",
                           "limit", "prepare"));
  for (const RooflineRow& row : report.rows)
    out.add(fmt::format("{}: {}, {} outputs x {} inputs; {}", row.kernel, formats_of(row), row.n, row.k, row.unit),
            fmt::format("{:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9}{}\n", row.m, figure(row.gops), figure(row.gbps),
                        percent(row.share), percent(row.middle_share), limit_of(row), percent(row.prepare_share),
                        star(row.chosen)));
  return out.text();
}

std::string attention_table(const RooflineReport& report) {
  Sections out(fmt::format("{:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8}\n", "tokens", "context", "GOP/s", "GB/s", "share",
                           "middle", "limit"));
  for (const AttentionRoofRow& row : report.attention)
    out.add(
        fmt::format("{}: causal attention, {}; cache {}; {}", row.kernel, heads_of(row), row.cache, row.unit),
        fmt::format("{:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8}{}\n", row.m, row.context, figure(row.gops),
                    figure(row.gbps), percent(row.share), percent(row.middle_share), limit_of(row), star(row.chosen)));
  return out.text();
}

std::string quantization_table(const RooflineReport& report) {
  Sections out(fmt::format("{:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>12}\n", "tokens", "inputs", "kept", "GB/s",
                           "of copy", "middle", "of its GEMM"));
  for (const QuantizeRoofRow& row : report.quantization)
    out.add(fmt::format("{}: {}; its GEMM: {}, {} outputs", row.kernel, row.activations, row.gemm, row.n),
            fmt::format("{:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>12}{}\n", row.m, row.k, row.kept, figure(row.gbps),
                        percent(row.share), percent(row.middle_share), percent(row.of_gemm), star(row.chosen)));
  return out.text();
}

std::string solving_table(const RooflineReport& report) {
  Sections out(fmt::format("{:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>10}\n", "tokens", "outputs", "inputs", "GOP/s",
                           "share", "middle", "seconds"));
  for (const SolveRoofRow& row : report.solving)
    out.add(fmt::format("{}; {}", row.kernel, row.unit),
            fmt::format("{:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>10.3f}\n", row.m, row.n, row.k, figure(row.gops),
                        percent(row.share), percent(row.middle_share), row.seconds));
  return out.text();
}

// "81 % (640)", in bold where a model would run it.
std::string share_cell(const RooflineRow& row) {
  const std::string mark = row.chosen ? "**" : "";
  return fmt::format("{}{:.0f} %{} ({})", mark, 100 * row.share, mark, figure(row.gops));
}

bool same_line(const RooflineRow& a, const RooflineRow& b) {
  return a.kernel == b.kernel && formats_of(a) == formats_of(b) && a.n == b.n && a.k == b.k;
}

// A line for each kernel and layer, a column for each number of tokens, which all of them have.
std::string linear_markdown(const std::vector<RooflineRow>& rows) {
  if (rows.empty()) return "";
  std::string head = "| kernel | weights x activations | N x K |", rule = "|---|---|---|", lines;
  for (size_t i = 0; i < rows.size(); ++i) {
    const RooflineRow& row = rows[i];
    if (i == 0 || !same_line(rows[i - 1], row))
      lines += fmt::format("\n| `{}` | {} | {} x {} |", row.kernel, formats_of(row), row.n, row.k);
    lines += " " + share_cell(row) + " |";
    if (same_line(rows[0], row)) {
      head += fmt::format(" M={} |", row.m);
      rule += "---:|";
    }
  }
  return "\nShare of the roof (GOP/s); bold: what a model would run.\n\n" + head + "\n" + rule + lines + "\n";
}

std::string attention_markdown(const std::vector<AttentionRoofRow>& rows) {
  if (rows.empty()) return "";
  std::string out =
      "\n| attention kernel | cache | heads | tokens | context | GOP/s | GB/s | share of the roof | limit |\n"
      "|---|---|---|---:|---:|---:|---:|---:|---|\n";
  for (const AttentionRoofRow& row : rows)
    out += fmt::format("| `{}` | {} | {} | {} | {} | {} | {} | {:.0f} % | {} |\n", row.kernel, row.cache, heads_of(row),
                       row.m, row.context, figure(row.gops), figure(row.gbps), 100 * row.share, limit_of(row));
  return out;
}

std::string quantization_markdown(const std::vector<QuantizeRoofRow>& rows) {
  if (rows.empty()) return "";
  std::string out =
      "\n| quantization kernel | to | M | K | kept | GB/s | share of copying | of its GEMM |\n"
      "|---|---|---:|---:|---:|---:|---:|---:|\n";
  for (const QuantizeRoofRow& row : rows)
    out += fmt::format("| `{}` | {} | {} | {} | {} | {} | {:.0f} % | {:.1f} % |\n", row.kernel, row.activations, row.m,
                       row.k, row.kept, figure(row.gbps), 100 * row.share, 100 * row.of_gemm);
  return out;
}

std::string solving_markdown(const std::vector<SolveRoofRow>& rows) {
  if (rows.empty()) return "";
  std::string out =
      "\n| solver | M | N | K | GOP/s | share of the roof | unit |\n"
      "|---|---:|---:|---:|---:|---:|---|\n";
  for (const SolveRoofRow& row : rows)
    out += fmt::format("| `{}` | {} | {} | {} | {} | {:.0f} % | {} |\n", row.kernel, row.m, row.n, row.k,
                       figure(row.gops), 100 * row.share, row.unit);
  return out;
}

// --- CSV -----------------------------------------------------------------------------------------------------------

constexpr std::string_view kColumns[] = {"kernel", "weights", "activations", "kept_columns", "kept_as", "m",     "n",
                                         "k",      "heads",   "kv_heads",    "head_dim",     "context", "cache", "gops",
                                         "gbps",   "share",   "bound",       "share_of_gemm"};

// By the names of their columns, in any order.
using Cells = std::map<std::string_view, std::string>;

Cells figures_of(const RoofFigures& row) {
  return {{"gops", fmt::format("{:.3f}", row.gops)},
          {"gbps", fmt::format("{:.3f}", row.gbps)},
          {"share", fmt::format("{:.4f}", row.share)},
          {"bound", limit_of(row)}};
}

Cells with(Cells cells, const Cells& more) {
  cells.insert(more.begin(), more.end());
  return cells;
}

Cells cells_of(const RooflineRow& row) {
  return with(figures_of(row), {{"kernel", row.kernel},
                                {"weights", row.weights},
                                {"activations", row.activations},
                                {"kept_columns", std::to_string(row.kept)},
                                {"kept_as", row.kept_as},
                                {"m", std::to_string(row.m)},
                                {"n", std::to_string(row.n)},
                                {"k", std::to_string(row.k)}});
}

Cells cells_of(const AttentionRoofRow& row) {
  return with(figures_of(row), {{"kernel", row.kernel},
                                {"m", std::to_string(row.m)},
                                {"heads", std::to_string(row.heads)},
                                {"kv_heads", std::to_string(row.kv_heads)},
                                {"head_dim", std::to_string(row.head_dim)},
                                {"context", std::to_string(row.context)},
                                {"cache", row.cache}});
}

Cells cells_of(const QuantizeRoofRow& row) {
  Cells cells = with(figures_of(row), {{"kernel", row.kernel},
                                       {"weights", row.weights},
                                       {"activations", row.activations},
                                       {"kept_columns", std::to_string(row.kept)},
                                       {"m", std::to_string(row.m)},
                                       {"n", std::to_string(row.n)},
                                       {"k", std::to_string(row.k)},
                                       {"share_of_gemm", fmt::format("{:.4f}", row.of_gemm)}});
  cells.erase("gops");  // there are no operations
  return cells;
}

Cells cells_of(const SolveRoofRow& row) {
  return with(figures_of(row), {{"kernel", row.kernel},
                                {"m", std::to_string(row.m)},
                                {"n", std::to_string(row.n)},
                                {"k", std::to_string(row.k)}});
}

class CsvTable {
 public:
  CsvTable() {
    add_line([](std::string_view column) { return std::string(column); });
  }

  void add(const Cells& cells) {
    add_line([&](std::string_view column) {
      const auto cell = cells.find(column);
      return cell == cells.end() ? std::string() : cell->second;
    });
  }
  const std::string& text() const { return text_; }

 private:
  template <class Cell>
  void add_line(Cell cell) {
    for (std::string_view column : kColumns) text_ += (column == kColumns[0] ? "" : ",") + cell(column);
    text_ += "\n";
  }

  std::string text_;
};

}  // namespace

Result<LayerShape> parse_shape(std::string_view text) {
  LayerShape shape;
  const char* const end = text.data() + text.size();
  const auto n = std::from_chars(text.data(), end, shape.n);
  const bool cross = n.ec == std::errc() && n.ptr != end && *n.ptr == 'x';
  const auto k = std::from_chars(cross ? n.ptr + 1 : end, end, shape.k);
  if (cross && k.ec == std::errc() && k.ptr == end) return shape;
  return failure(ErrorCode::usage, fmt::format("\"{}\" is not outputs x inputs such as 11008x4096", text));
}

Json peaks_json(double int8, double bf16, double f32, double bandwidth) {
  return {{"int8", peak_json(int8)}, {"bf16", peak_json(bf16)}, {"f32", peak_json(f32)}, {"bandwidth", bandwidth}};
}

Json roofline_json(const RooflineReport& report) {
  Json units = Json::array();
  for (const UnitPeak& unit : report.units) units.push_back(unit_json(unit));
  Json peaks = peaks_json(report.int8, report.bf16, report.f32, report.bandwidth);
  peaks["copy"] = report.copy;
  peaks["units"] = std::move(units);
  return {{"peaks", std::move(peaks)},
          {"rows", rows_json(report.rows)},
          {"attention", rows_json(report.attention)},
          {"quantization", rows_json(report.quantization)},
          {"solving", rows_json(report.solving)},
          {"isa", report.isa},
          {"threads", report.threads},
          {"quick", report.quick},
          {"seconds", report.seconds}};
}

std::string roofline_table(const RooflineReport& report) {
  return peaks_text(report) + linear_table(report) + attention_table(report) + quantization_table(report) +
         solving_table(report) +
         fmt::format("\n* the kernel that a model would run; {} in all\n", human_seconds(report.seconds)) +
         note_of(report);
}

std::string roofline_markdown(const RooflineReport& report) {
  return fmt::format("{} on {} threads: ", report.isa, report.threads) + peaks_line(report) + "\n" +
         linear_markdown(report.rows) + attention_markdown(report.attention) +
         quantization_markdown(report.quantization) + solving_markdown(report.solving);
}

// One table for all: what a row does not have stays empty.
std::string roofline_csv(const RooflineReport& report) {
  CsvTable table;
  for (const RooflineRow& row : report.rows) table.add(cells_of(row));
  for (const AttentionRoofRow& row : report.attention) table.add(cells_of(row));
  for (const QuantizeRoofRow& row : report.quantization) table.add(cells_of(row));
  for (const SolveRoofRow& row : report.solving) table.add(cells_of(row));
  return table.text();
}

}  // namespace nibble::cli
