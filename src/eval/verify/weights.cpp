// Is every tensor the reference's, or as far from it as the quantizer said?
#include <algorithm>
#include <cmath>
#include <map>

#include "eval/verify/checks.h"
#include "model/channel_order.h"
#include "model/globals.h"
#include "quantize/pipeline/record.h"
#include "quantize/solve/error.h"

namespace nibble {
namespace {

// Sums are in float64 and in one order on every machine; the rest is room for another compiler.
constexpr double kErrorTolerance = 1e-9;
constexpr double kMostConversion = 1e-4;  // relative squared error of a conversion between float types
constexpr double kMostRowError = 1;       // what a row of zeros has

tl::unexpected<Error> bad(const std::string& message) { return fail(ErrorCode::verification, "{}", message); }

// Relative squared errors the manifest recorded, by linear.
Result<std::map<std::string, double>> recorded_errors(const std::optional<Json>& manifest) {
  std::map<std::string, double> out;
  const Json* reports = nullptr;
  if (manifest && manifest->contains("linears")) reports = &(*manifest)["linears"];
  if (reports == nullptr || !reports->is_array()) return out;
  for (const Json& value : *reports) {
    NIBBLE_TRY(const LinearReport report, report_from_json(value, "the manifest"));
    out[report.name] = report.weight_error;
  }
  return out;
}

Status compare_floats(const std::string& name, const std::vector<float>& mine, const std::vector<float>& reference) {
  if (mine.size() != reference.size())
    return bad(fmt::format("{} has {} values, the reference {}", name, mine.size(), reference.size()));
  for (size_t i = 0; i < mine.size(); ++i)
    if (mine[i] != reference[i])
      return bad(fmt::format("{}: value {} is {}, the reference has {}", name, i, mine[i], reference[i]));
  return {};
}

Status compare_norm(const std::string& name, const NormWeight& mine, const NormWeight& reference) {
  NIBBLE_DO(compare_floats(name + ".gain", mine.gain, reference.gain));
  return compare_floats(name + ".bias", mine.bias, reference.bias);
}

struct Totals {
  int64_t quantized = 0, equal = 0, converted = 0;
  double worst = 0;  // relative error of a quantized linear
  std::string worst_name;
};

class Comparison {
 public:
  Comparison(std::map<std::string, double> recorded, Examination& examination)
      : recorded_(std::move(recorded)), examination_(examination), pool_(examination.pool) {}

  Status globals(const Spec& spec, const GlobalWeights& mine, const GlobalWeights& reference) {
    for (Global linear : globals_of(spec)) {
      const LinearWeight *a = find_linear(mine, linear), *b = find_linear(reference, linear);
      if (a != nullptr && b != nullptr) NIBBLE_DO(compare(std::string(name_of(linear)), *a, *b));
    }
    NIBBLE_DO(compare_floats("positions", mine.position_rows, reference.position_rows));
    return compare_norm("final_norm", mine.final_norm, reference.final_norm);
  }

  Status block(int64_t index, const BlockWeights& mine, const BlockWeights& reference) {
    NIBBLE_DO(
        compare_norm(fmt::format("blocks.{}.attention_norm", index), mine.attention_norm, reference.attention_norm));
    NIBBLE_DO(compare_norm(fmt::format("blocks.{}.mlp_norm", index), mine.mlp_norm, reference.mlp_norm));
    for (Role role : kAllRoles)
      if (mine[role].rows > 0) NIBBLE_DO(compare(linear_name(index, role), mine[role], reference[role]));
    return {};
  }

  const Totals& totals() const { return totals_; }

 private:
  Status compare(const std::string& name, const LinearWeight& mine, const LinearWeight& reference) {
    NIBBLE_DO(compare_floats(name + ".bias", mine.bias, reference.bias));
    if (mine.format == reference.format && !mine.format.has_codes() && mine.kept_columns.empty())
      return compare_bytes(name, mine, reference);
    NIBBLE_TRY(FloatLayer layer, examination_.of_reference(float_layer(reference, name, pool_)));
    rotate(layer, mine.kept_columns, mine.rotation, pool_);  // where it is compared, as when it was solved
    const double error = weight_error(layer, mine, pool_);
    if (!mine.format.has_codes()) return check_conversion(name, error);
    return check_error(name, layer, mine, error);
  }

  Status compare_bytes(const std::string& name, const LinearWeight& mine, const LinearWeight& reference) {
    ++totals_.equal;
    if (mine.codes == reference.codes) return {};
    const auto at = static_cast<int64_t>(
        std::mismatch(mine.codes.begin(), mine.codes.end(), reference.codes.begin()).first - mine.codes.begin());
    const int64_t value = at / (mine.format.bits / 8);
    return bad(
        fmt::format("{}: row {}, column {} is not the reference's", name, value / mine.columns, value % mine.columns));
  }

  Status check_conversion(const std::string& name, double error) {
    ++totals_.converted;
    if (error <= kMostConversion) return {};
    return bad(fmt::format("{}: relative squared error {:.3g} of a conversion between floats", name, error));
  }

  Status check_error(const std::string& name, const FloatLayer& layer, const LinearWeight& mine, double error) {
    ++totals_.quantized;
    if (error > totals_.worst) {
      totals_.worst = error;
      totals_.worst_name = name;
    }
    const auto recorded = recorded_.find(name);
    if (recorded != recorded_.end() && std::fabs(error - recorded->second) > kErrorTolerance * recorded->second)
      return bad(fmt::format("{}: relative squared error {:.9g} against the reference, the manifest says {:.9g}", name,
                             error, recorded->second));
    return check_worst_row(name, layer, mine);
  }

  Status check_worst_row(const std::string& name, const FloatLayer& layer, const LinearWeight& mine) {
    std::vector<double> errors(static_cast<size_t>(mine.rows));
    pool_.run_ranges(mine.rows, 32, [&](int64_t begin, int64_t end) {
      std::vector<float> row(static_cast<size_t>(mine.columns));
      for (int64_t n = begin; n < end; ++n) {
        decode_stored(mine, n, row);
        errors[static_cast<size_t>(n)] = relative_error(layer.row(n), row);
      }
    });
    const auto worst = std::max_element(errors.begin(), errors.end());
    if (worst == errors.end() || *worst < kMostRowError) return {};
    return bad(
        fmt::format("{}: row {} is no nearer to the reference than a row of zeros (relative squared error {:.3g})",
                    name, worst - errors.begin(), *worst));
  }

  static double relative_error(std::span<const float> original, std::span<const float> row) {
    double error = 0, whole = 0;
    for (size_t k = 0; k < row.size(); ++k) {
      const double a = original[k], b = row[k];
      error += (a - b) * (a - b);
      whole += a * a;
    }
    return whole > 0 ? error / whole : 0;
  }

  std::map<std::string, double> recorded_;
  Examination& examination_;
  ThreadPool& pool_;
  Totals totals_;
};

Status compare_all(Examination& examination, Comparison& comparison) {
  const ModelSource &mine = *examination.candidate.source, &reference = *examination.reference->source;
  NIBBLE_TRY(const ChannelOrder order, order_of(mine));
  NIBBLE_TRY(const GlobalWeights a, mine.globals());
  NIBBLE_TRY(GlobalWeights b, examination.of_reference(reference.globals()));
  reorder(order, reference.spec(), b);
  NIBBLE_DO(comparison.globals(mine.spec(), a, b));
  for (int64_t index = 0; index < mine.spec().layers; ++index) {
    NIBBLE_TRY(const BlockWeights x, mine.block(index));
    NIBBLE_TRY(BlockWeights y, examination.of_reference(reference.block(index)));
    reorder(order, reference.spec(), index, y);
    NIBBLE_DO(comparison.block(index, x, y));
    examination.told("comparing weights", static_cast<double>(index + 1) / static_cast<double>(mine.spec().layers));
  }
  return {};
}

}  // namespace

Result<Finding> check_weights(Examination& examination) {
  if (!examination.reference) return skipped("no reference");
  if (examination.candidate.source->quantization() == nullptr)
    return skipped("the candidate is a plain folder, whose tensors may be anything that predicts alike");
  NIBBLE_TRY(auto recorded, recorded_errors(examination.manifest));
  const bool told = !recorded.empty();
  Comparison comparison(std::move(recorded), examination);
  NIBBLE_DO(compare_all(examination, comparison));
  const Totals& totals = comparison.totals();
  std::string evidence = fmt::format("{} float matrices, norms and biases are the reference's", totals.equal);
  if (totals.converted > 0) evidence += fmt::format(", {} converted between float types", totals.converted);
  if (totals.quantized > 0)
    evidence += fmt::format("; {} quantized ones {}, at most {:.3g} ({})", totals.quantized,
                            told ? "have the relative squared errors of the manifest" : "have relative squared errors",
                            totals.worst, totals.worst_name);
  return passed(evidence);
}

}  // namespace nibble
