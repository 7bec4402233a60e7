#include "eval/report/page.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/markup.h"
#include "eval/report/assets.h"
#include "eval/report/sections.h"
#include "eval/report/text.h"

namespace nibble {
namespace page {
namespace {

constexpr std::array<std::string_view, 7> kRoles = {"q", "k", "v", "o", "gate", "up", "down"};
constexpr int64_t kMostBlocks = 10'000;

bool is_known(std::string_view role) { return std::find(kRoles.begin(), kRoles.end(), role) != kRoles.end(); }

// Roles with _ between: q, k and v are written together in the names of sites.
std::string roles_reading(std::string_view site) {
  return (site.starts_with("qkv") ? "q_k_v" : "") + std::string(site.starts_with("qkv") ? site.substr(3) : site);
}

bool reads(std::string_view role, std::string_view site) {
  return fmt::format("_{}_", roles_reading(site)).find(fmt::format("_{}_", role)) != std::string::npos;
}

// The policy forbids every request; an icon of no data keeps browsers from asking for one.
constexpr std::string_view kHead = R"(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
)";

std::string footer(const LayerReport& report) {
  return fmt::format(
      "<footer><p>Errors are squared and relative: 0.01 means that a hundredth of the energy is wrong. Output errors "
      "are "
      "measured on calibration tokens, one layer at a time; the divergence is measured on whole models.</p><p>Made by "
      "{}."
      "</p></footer>\n",
      escaped(report.tool.empty() ? "nibble" : report.tool));
}

}  // namespace

std::string section(std::string_view id, std::string_view title, std::string_view guide, std::string_view body) {
  return fmt::format("<section id=\"{0}\" aria-labelledby=\"{0}-h\">\n<h2 id=\"{0}-h\">{1}</h2>\n{2}{3}</section>\n",
                     id, title, guide.empty() ? "" : fmt::format("<p class=\"guide\">{}</p>\n", guide), body);
}

std::string absent(std::string_view why) { return fmt::format("<p class=\"absent\">{}</p>\n", why); }

std::string site_title(std::string_view site) {
  std::string out;
  for (const char c : roles_reading(site)) out += c == '_' ? std::string(", ") : std::string(1, c);
  return escaped(out);
}

bool quantizes_input(const LayerReport& report, const SiteRow& site) {
  return std::any_of(report.linears.begin(), report.linears.end(), [&](const LayerRow& row) {
    const bool floats = row.activations == "f32" || row.activations == "f16" || row.activations == "bf16";
    return row.block == site.block && reads(row.role, site.site) && !floats;
  });
}

int64_t block_count(const LayerReport& report) {
  int64_t blocks = report.blocks;
  for (const LayerRow& row : report.linears) blocks = std::max(blocks, row.block + 1);
  for (const SiteRow& row : report.sites) blocks = std::max(blocks, row.block + 1);
  return std::clamp<int64_t>(blocks, 1, kMostBlocks);
}

std::vector<std::string> roles_of(const LayerReport& report) {
  std::vector<std::string> roles;
  const auto occurs = [&](std::string_view role) {
    return std::any_of(report.linears.begin(), report.linears.end(),
                       [&](const LayerRow& row) { return row.role == role; });
  };
  for (const std::string_view role : kRoles)
    if (occurs(role)) roles.emplace_back(role);
  for (const LayerRow& row : report.linears)
    if (std::find(roles.begin(), roles.end(), row.role) == roles.end()) roles.push_back(row.role);
  return roles;
}

std::string role_class(std::string_view role) {
  return is_known(role) ? fmt::format("role-{}", role) : std::string("role-other");
}

std::vector<ErrorKind> measured_errors(const LayerReport& report) {
  std::vector<ErrorKind> kinds;
  for (const ErrorKind& kind : {kOutputError, kWeightError})
    if (std::any_of(report.linears.begin(), report.linears.end(),
                    [&](const LayerRow& row) { return (row.*kind.value).has_value(); }))
      kinds.push_back(kind);
  return kinds;
}

}  // namespace page

std::string report_page(const LayerReport& report) {
  using namespace page;
  std::string out(kHead);
  out += fmt::format("<title>{}: quantization report</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n",
                     escaped(report.model), page_style());
  out += headline(report) + findings_section(report) + channels_section(report) + depth_section(report);
  out += maps_section(report) + text_section(report) + tables_section(report) + footer(report);
  out += fmt::format("</main>\n<script>\n{}</script>\n</body>\n</html>\n", page_script());
  return out;
}

}  // namespace nibble
