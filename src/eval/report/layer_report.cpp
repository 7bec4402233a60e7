#include "eval/report/layer_report.h"

namespace nibble {
namespace {

Json known(const std::optional<double>& value) { return value ? Json(*value) : Json(); }
Json known(const std::string& value) { return value.empty() ? Json() : Json(value); }

Json estimate_json(const Estimate& estimate) {
  return {{"value", estimate.value}, {"standard_error", estimate.standard_error}};
}

Json linear_json(const LayerRow& row) {
  return {{"name", row.name},
          {"block", row.block},
          {"role", row.role},
          {"weights", row.weights},
          {"activations", row.activations},
          {"rows", row.rows},
          {"columns", row.columns},
          {"kept_columns", row.kept},
          {"stored_bytes", row.stored_bytes},
          {"bits_per_weight", row.bits_per_weight},
          {"weight_error", known(row.weight_error)},
          {"output_error", known(row.output_error)},
          {"output_cosine", known(row.output_cosine)},
          {"solver_error", known(row.solver_error)},
          {"rounding_solver_error", known(row.rounding_solver_error)},
          {"clip_mean", known(row.clip_mean)},
          {"clip_least", known(row.clip_least)}};
}

Json site_json(const SiteRow& row) {
  return {{"name", row.name},
          {"block", row.block},
          {"site", row.site},
          {"inputs", row.inputs},
          {"kept_columns", row.kept},
          {"maximum", known(row.maximum)},
          {"median", known(row.median)},
          {"kurtosis", known(row.kurtosis)},
          {"absmax", row.absmax.empty() ? Json() : Json(row.absmax)}};
}

Json divergence_json(const Divergence& found, const std::string& protocol) {
  return {{"protocol", protocol},
          {"tokens", found.tokens},
          {"mean_kl", estimate_json(found.mean_kl)},
          {"median_kl", estimate_json(found.median_kl)},
          {"p99_kl", estimate_json(found.p99_kl)},
          {"p999_kl", estimate_json(found.p999_kl)},
          {"max_kl", found.max_kl},
          {"top1_agreement", estimate_json(found.top1_agreement)},
          {"top5_agreement", estimate_json(found.top5_agreement)},
          {"probability_change", estimate_json(found.probability_change)},
          {"rms_probability_change", found.rms_probability_change},
          {"reference_perplexity", found.reference_perplexity},
          {"candidate_perplexity", found.candidate_perplexity},
          {"perplexity_ratio", estimate_json(found.perplexity_ratio)},
          {"kl", found.kl}};
}

}  // namespace

Json to_json(const LayerReport& report) {
  Json out = {{"model", report.model},
              {"reference", known(report.reference)},
              {"family", report.family},
              {"recipe", known(report.recipe)},
              {"attention", known(report.attention)},
              {"tool", known(report.tool)},
              {"parameters", report.parameters},
              {"file_bytes", report.file_bytes},
              {"blocks", report.blocks},
              {"bits_per_weight", report.bits_per_weight},
              {"quantized_bits_per_weight", report.quantized_bits_per_weight},
              {"linears", Json::array()},
              {"sites", Json::array()},
              {"divergence", Json()}};
  for (const LayerRow& row : report.linears) out["linears"].push_back(linear_json(row));
  for (const SiteRow& row : report.sites) out["sites"].push_back(site_json(row));
  if (report.divergence) out["divergence"] = divergence_json(*report.divergence, report.protocol);
  return out;
}

}  // namespace nibble
