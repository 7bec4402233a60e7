#include "quantize/step.h"

#include <algorithm>
#include <cmath>

#include "format/block_scale.h"

namespace nibble {
namespace {

float largest_weight(const FloatLayer& layer, std::span<const int32_t> columns) {
  float most = 0;
  for (int64_t n = 0; n < layer.rows; ++n)
    for (int32_t column : columns) most = std::max(most, std::fabs(layer.row(n)[static_cast<size_t>(column)]));
  return most;
}

}  // namespace

Status Step::check(const NumberFormat&, const NumberFormat&, int64_t, std::string_view) const { return {}; }

Result<LayerForm> form_of(const LinearWork& work, bool sparse24) {
  const SiteWork& site = work.site;
  LayerForm form{};
  form.weights = work.weights;
  form.activations = work.activations;
  form.kept = site.kept;
  form.sparse24 = sparse24;
  form.kept_levels = site.kept_levels;
  form.widths = work.widths;
  form.learned = work.learned;
  form.sparse = work.sparse;
  form.rotation = site.rotation;
  if (form.weights.bits == 0 && form.widths.empty())
    return fail(ErrorCode::usage, "{}: weights in {} leave open how many bits a column has, and no step says it",
                work.layer.name, to_string(form.weights));
  const std::vector<int32_t> dense = dense_columns_of(work.layer.columns, form.kept);
  if (form.weights.outer || form.weights.is_profiled()) {
    const float most = largest_weight(work.layer, dense);
    form.outer = outer_scale(form.weights, most);
    if (form.weights.is_profiled()) form.weights = with_fraction(form.weights, most);
  }
  if (!form.activations.is_profiled()) return form;
  if (site.statistics == nullptr || site.statistics->absmax.empty())
    return fail(ErrorCode::usage,
                "{}: activations in {} take their fraction from calibration text; give some, or a fraction ({}:f4)",
                work.layer.name, to_string(form.activations), to_string(form.activations));
  float most = 0;
  for (int32_t column : dense) most = std::max(most, site.statistics->absmax[static_cast<size_t>(column)]);
  form.activations = with_fraction(form.activations, most);
  return form;
}

}  // namespace nibble
