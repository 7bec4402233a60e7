// The first screen: what model this is, the figures that matter, and what stands out.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/markup.h"
#include "eval/report/sections.h"
#include "eval/report/text.h"
#include "measure/statistics.h"

namespace nibble::page {
namespace {

std::string tile(std::string_view name, const std::string& value, const std::string& note) {
  return fmt::format("<div><dt>{}</dt><dd><b>{}</b><span>{}</span></dd></div>\n", name, value, note);
}

std::string with_error(const Estimate& estimate) { return fmt::format("± {}", number(estimate.standard_error, 2)); }

std::string divergence_tiles(const Divergence& divergence) {
  return tile("Mean KL divergence", number(divergence.mean_kl.value),
              with_error(divergence.mean_kl) + " nats per token") +
         tile("Top-1 agreement", percent(divergence.top1_agreement.value),
              fmt::format("± {} of tokens", percent(divergence.top1_agreement.standard_error))) +
         tile("Perplexity ratio", number(divergence.perplexity_ratio.value, 4),
              fmt::format("{} → {}", number(divergence.reference_perplexity, 4),
                          number(divergence.candidate_perplexity, 4)));
}

std::string facts(const LayerReport& report) {
  std::vector<std::string> facts;
  if (!report.recipe.empty()) facts.push_back(fmt::format("recipe <b>{}</b>", escaped(report.recipe)));
  if (!report.reference.empty()) facts.push_back(fmt::format("reference <b>{}</b>", escaped(report.reference)));
  if (!report.family.empty()) facts.push_back(fmt::format("family {}", escaped(report.family)));
  if (!report.attention.empty()) facts.push_back(fmt::format("attention {}", escaped(report.attention)));
  facts.push_back(fmt::format("{} parameters in {} {}", parameters(report.parameters), count(report.blocks),
                              report.blocks == 1 ? "block" : "blocks"));
  std::string out;
  for (const std::string& fact : facts) out += fmt::format("<li>{}</li>", fact);
  return fmt::format("<ul class=\"facts\">{}</ul>\n", out);
}

// --- what stands out ---

using Value = std::optional<double> LayerRow::*;

std::vector<double> finite_values(const LayerReport& report, Value value) {
  std::vector<double> values;
  for (const LayerRow& row : report.linears)
    if (row.*value && std::isfinite(*(row.*value))) values.push_back(*(row.*value));
  std::sort(values.begin(), values.end());
  return values;
}

std::string worst_layer(const LayerReport& report, const ErrorKind& kind) {
  const std::vector<double> values = finite_values(report, kind.value);
  if (values.empty() || values.back() <= 0) return "";
  const auto worst = std::find_if(report.linears.begin(), report.linears.end(),
                                  [&](const LayerRow& row) { return row.*kind.value == values.back(); });
  const double median = median_of(values);
  const std::string times =
      median > 0 ? fmt::format(", {} times the median layer's {}", number(values.back() / median, 2), percent(median))
                 : "";
  return fmt::format("<b>{}</b> has the largest {}: {} {}{}.", escaped(worst->name),
                     kind.id == kOutputError.id ? "output error" : "weight error", percent(values.back()), kind.of,
                     times);
}

std::string not_finite(const LayerReport& report) {
  int64_t found = 0;
  std::string first;
  for (const LayerRow& row : report.linears)
    for (const Value value : {&LayerRow::weight_error, &LayerRow::output_error, &LayerRow::output_cosine})
      if (row.*value && !std::isfinite(*(row.*value)) && found++ == 0) first = row.name;
  if (found == 0) return "";
  return fmt::format("<strong>{} measured {} not finite</strong>, first in <b>{}</b>: the layer is broken.",
                     count(found), found == 1 ? "value is" : "values are", escaped(first));
}

// The channel that is not kept and stands out most from the median of its site.
struct Peak {
  const SiteRow* row = nullptr;
  size_t channel = 0;
  double ratio = 0;
};

Peak peak_of(const SiteRow& row) {
  const double median = median_of({row.absmax.begin(), row.absmax.end()});
  Peak peak{&row};
  if (!(median > 0)) return peak;
  std::vector<char> kept(row.absmax.size(), 0);
  for (const int32_t channel : row.kept)
    if (channel >= 0 && static_cast<size_t>(channel) < kept.size()) kept[static_cast<size_t>(channel)] = 1;
  for (size_t channel = 0; channel < kept.size(); ++channel) {
    const double ratio = static_cast<double>(row.absmax[channel]) / median;
    if (!kept[channel] && ratio > peak.ratio) peak = {&row, channel, ratio};
  }
  return peak;
}

bool is_drawable(const SiteRow& row) {
  return !row.absmax.empty() &&
         std::all_of(row.absmax.begin(), row.absmax.end(), [](float x) { return std::isfinite(x); });
}

std::string highest_peak(const LayerReport& report) {
  Peak most;
  for (const SiteRow& row : report.sites) {
    if (!quantizes_input(report, row) || !is_drawable(row)) continue;
    if (const Peak peak = peak_of(row); peak.ratio > most.ratio) most = peak;
  }
  if (most.row == nullptr) return "";
  return fmt::format("The highest peak that is not kept is channel {} of <b>{}</b>: {} times the median channel.",
                     count(static_cast<int64_t>(most.channel)), escaped(most.row->name), number(most.ratio, 2));
}

std::string worst_tokens(const LayerReport& report) {
  if (!report.divergence || !(report.divergence->max_kl > 0)) return "";
  const Divergence& divergence = *report.divergence;
  return fmt::format(
      "Half of the tokens diverge by less than {} nats, one in a hundred by more than {}, the worst by {}.",
      number(divergence.median_kl.value), number(divergence.p99_kl.value), number(divergence.max_kl));
}

}  // namespace

std::string headline(const LayerReport& report) {
  std::string tiles = tile(
      "Bits per weight", number(report.bits_per_weight),
      report.recipe.empty() ? "not quantized" : number(report.quantized_bits_per_weight) + " in the quantized layers");
  tiles += tile("Size", bytes(report.file_bytes), "of weight files");
  if (report.divergence) tiles += divergence_tiles(*report.divergence);
  const std::string measured =
      report.divergence
          ? fmt::format("Measured on {} tokens, {}.", count(report.divergence->tokens), escaped(report.protocol))
          : "Not compared with the original: these figures say what was stored, not whether the model is still good.";
  return fmt::format(
      "<header>\n<p class=\"over\">Quantization report</p>\n<h1><bdi>{}</bdi></h1>\n{}<dl class=\"tiles\">"
      "\n{}</dl>\n<p class=\"protocol\">{}</p>\n</header>\n",
      escaped(report.model), facts(report), tiles, measured);
}

std::string findings_section(const LayerReport& report) {
  const std::vector<ErrorKind> kinds = measured_errors(report);
  std::string items;
  for (const std::string& finding : {not_finite(report), kinds.empty() ? "" : worst_layer(report, kinds.front()),
                                     highest_peak(report), worst_tokens(report)})
    if (!finding.empty()) items += fmt::format("<li>{}</li>\n", finding);
  if (items.empty()) return "";
  return section("findings", "What stands out", "", fmt::format("<ul class=\"findings\">\n{}</ul>\n", items));
}

}  // namespace nibble::page
