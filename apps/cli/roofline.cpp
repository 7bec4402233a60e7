#include "roofline.h"

#include <charconv>

namespace nibble::cli {
namespace {

// Three significant digits, as 1234 or 12.3 or 0.123.
std::string figure(double value) {
  if (value >= 100) return fmt::format("{:.0f}", value);
  return value >= 10 ? fmt::format("{:.1f}", value) : fmt::format("{:.2f}", value);
}

std::string formats_of(const RooflineRow& row) {
  std::string out = row.weights + " x " + row.activations;
  return row.kept > 0 ? fmt::format("{}, {} kept", out, row.kept) : out;
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
          {"gops", row.gops},
          {"gbps", row.gbps},
          {"share", row.share},
          {"middle_share", row.middle_share},
          {"prepare_share", row.prepare_share},
          {"bound", row.memory_bound ? "memory" : "compute"},
          {"unit", row.unit},
          {"unit_gops", row.peak_gops},
          {"bandwidth", row.bandwidth_gbps},
          {"operations_per_byte", row.operations_per_byte},
          {"seconds", row.seconds},
          {"isa", row.isa},
          {"chosen", row.chosen}};
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

std::string note_of(const RooflineReport& report) {
  if (!report.quick) return "";
  return "Quick: weights lie in the caches and slices are few. To see that it works, not to quote.\n";
}

}  // namespace

Result<std::vector<LayerShape>> parse_shapes(const std::vector<std::string>& texts) {
  std::vector<LayerShape> shapes;
  for (const std::string& text : texts) {
    LayerShape shape;
    const char* const end = text.data() + text.size();
    const auto n = std::from_chars(text.data(), end, shape.n);
    const bool cross = n.ec == std::errc() && n.ptr != end && *n.ptr == 'x';
    const auto k = std::from_chars(cross ? n.ptr + 1 : end, end, shape.k);
    if (!cross || k.ec != std::errc() || k.ptr != end)
      return failure(ErrorCode::usage,
                     fmt::format("--shapes: \"{}\" is not outputs x inputs such as 11008x4096", text));
    shapes.push_back(shape);
  }
  return shapes;
}

Json peaks_json(double int8, double bf16, double f32, double bandwidth) {
  return {{"int8", peak_json(int8)}, {"bf16", peak_json(bf16)}, {"f32", peak_json(f32)}, {"bandwidth", bandwidth}};
}

Json roofline_json(const RooflineReport& report) {
  Json units = Json::array(), rows = Json::array();
  for (const UnitPeak& unit : report.units) units.push_back(unit_json(unit));
  for (const RooflineRow& row : report.rows) rows.push_back(row_json(row));
  Json peaks = peaks_json(report.int8, report.bf16, report.f32, report.bandwidth);
  peaks["copy"] = report.copy;
  peaks["units"] = std::move(units);
  return {{"peaks", std::move(peaks)},
          {"rows", std::move(rows)},
          {"isa", report.isa},
          {"threads", report.threads},
          {"quick", report.quick}};
}

std::string roofline_table(const RooflineReport& report) {
  std::string out = peaks_text(report);
  std::string last;
  for (const RooflineRow& row : report.rows) {
    const std::string title =
        fmt::format("\n{}: {}, {} outputs x {} inputs; {}\n", row.kernel, formats_of(row), row.n, row.k, row.unit);
    if (title != last) {
      out += title;
      out += fmt::format("{:>8} {:>9} {:>8} {:>7} {:>8} {:>8} {:>9}\n", "tokens", "GOP/s", "GB/s", "share", "middle",
                         "limit", "prepare");
    }
    last = title;
    out += fmt::format("{:>8} {:>9} {:>8} {:>5.1f} % {:>6.1f} % {:>8} {:>7.1f} %{}\n", row.m, figure(row.gops),
                       figure(row.gbps), 100 * row.share, 100 * row.middle_share,
                       row.memory_bound ? "memory" : "compute", 100 * row.prepare_share, row.chosen ? "  *" : "");
  }
  return out + "\n* the kernel that a model would run\n" + note_of(report);
}

std::string roofline_markdown(const RooflineReport& report) {
  std::string out =
      "| kernel | weights x activations | N | K | M | GOP/s | GB/s | share of the roof | limit |\n"
      "|---|---|---:|---:|---:|---:|---:|---:|---|\n";
  for (const RooflineRow& row : report.rows)
    out += fmt::format("| `{}` | {} | {} | {} | {} | {} | {} | {:.1f} % | {} |\n", row.kernel, formats_of(row), row.n,
                       row.k, row.m, figure(row.gops), figure(row.gbps), 100 * row.share,
                       row.memory_bound ? "memory" : "compute");
  return out;
}

std::string roofline_csv(const RooflineReport& report) {
  std::string out = "kernel,weights,activations,kept_columns,m,n,k,gops,gbps,share,bound\n";
  for (const RooflineRow& row : report.rows)
    out += fmt::format("{},{},{},{},{},{},{},{:.3f},{:.3f},{:.4f},{}\n", row.kernel, row.weights, row.activations,
                       row.kept, row.m, row.n, row.k, row.gops, row.gbps, row.share,
                       row.memory_bound ? "memory" : "compute");
  return out;
}

}  // namespace nibble::cli
