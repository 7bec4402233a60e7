#include "quantize/pipeline/block.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "measure/statistics.h"
#include "quantize/observe/projections.h"
#include "quantize/pipeline/estimate.h"
#include "quantize/pipeline/run_error.h"
#include "quantize/solve/clip.h"
#include "quantize/solve/error.h"
#include "quantize/solve/levels.h"
#include "quantize/solve/round.h"

namespace nibble {
namespace {

// The weights that a quantized layer stands for, as a float layer.
LinearWeight decoded(const LinearWeight& weight, ThreadPool& pool) {
  Bytes values(static_cast<size_t>(weight.rows * weight.columns) * sizeof(float));
  pool.run_ranges(weight.rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(weight.columns));
    for (int64_t n = begin; n < end; ++n) {
      decode_row(weight, n, row);
      std::memcpy(values.data() + static_cast<size_t>(n * weight.columns) * sizeof(float), row.data(),
                  row.size() * sizeof(float));
    }
  });
  return float_linear(weight.rows, weight.columns, Levels::f32, std::move(values), weight.bias);
}

// A quantized layer as calibration text runs through it: its weights as they are, its input not quantized.
LinearWeight effective(const LinearWeight& weight, ThreadPool& pool) {
  if (!weight.format.is_integer() && !weight.format.is_learned()) return decoded(weight, pool);
  LinearWeight out = weight;
  out.activations = *parse_format("f32");
  return out;
}

SiteReport report_of(const std::string& name, const SiteStatistics& statistics) {
  const std::vector<float>& absmax = statistics.absmax;
  return {name, static_cast<int64_t>(absmax.size()),
          static_cast<double>(*std::max_element(absmax.begin(), absmax.end())),
          median_of({absmax.begin(), absmax.end()}), statistics.moments.kurtosis()};
}

// A float layer in another float type.
Result<LinearWeight> converted(const FloatLayer& layer, Levels levels) {
  Bytes values(layer.values.size() * (levels == Levels::f32 ? 4 : 2));
  if (const auto misfit = write_floats(layer.values, levels, values.data()))
    return fail(ErrorCode::failure, "weights of {}: {} does not fit a 16-bit float", layer.name, *misfit);
  return float_linear(layer.rows, layer.columns, levels, std::move(values), layer.bias);
}

class BlockQuantizer {
 public:
  BlockQuantizer(const Spec& spec, const AttentionFormats& attention, int64_t index, BlockWeights original,
                 const Streams& streams, const SensitivityFile* sensitivities, double left_over, Isa isa,
                 ThreadPool& pool)
      : spec_(spec), index_(index), streams_(streams), sensitivities_(sensitivities), isa_(isa), pool_(pool) {
    result_.attention = attention;
    result_.weights = std::move(original);
    result_.left_over = left_over;
  }

  Status prepare() {
    if (!streams_.any()) return {};
    NIBBLE_TRY(packed_, pack_block(result_.weights, isa_, pool_));
    return {};
  }

  // Site number `at` of the block.
  Status quantize_site(const SitePlan& plan, size_t at) {
    SiteStatistics calibration, validation;
    if (streams_.calibration != nullptr) {
      NIBBLE_DO(observe(*streams_.calibration, plan, at, plan.statistics() | kMoments | kRows, calibration));
      result_.sites.push_back(report_of(plan.name, calibration));
      result_.absmax.insert(result_.absmax.end(), calibration.absmax.begin(), calibration.absmax.end());
    }
    if (streams_.validation != nullptr)
      NIBBLE_DO(measures(plan) ? observe(*streams_.validation, plan, at, kGram, validation)
                               : streams_.validation->reach(index_, *packed_, at, nullptr, pool_));
    SiteWork site{plan.name, plan.inputs, spec_.hidden, plan.sparse24(),    &calibration,
                  {},        {},          Levels::f16,  plan.activations(), 0};
    site.left_over = result_.left_over;
    open(plan, site);
    for (const PlannedStep& step : plan.steps) NIBBLE_DO(step.step->apply_to_site(site, pool_));
    rotate(calibration, site.kept, site.rotation, pool_);
    rotate(validation, site.kept, site.rotation, pool_);
    for (const LinearPlan& linear : plan.linears)
      if (!linear.quantized()) NIBBLE_DO(convert(linear, result_.weights[linear.role]));
    NIBBLE_DO(quantize_linears(plan, site, calibration, validation));
    result_.left_over = site.left_over;
    if (packed_) find_plans(*packed_);
    return {};
  }

  // The hidden states of all text after this block.
  Status advance() {
    for (HiddenStream* stream : {streams_.calibration, streams_.validation})
      if (stream != nullptr) NIBBLE_DO(stream->reach(index_, *packed_, sites_of(spec_).size(), nullptr, pool_));
    return {};
  }

  BlockResult take() {
    result_.attention = with_fractions(result_.attention, projected_);
    return std::move(result_);
  }

 private:
  bool measures(const SitePlan& plan) const {
    return std::any_of(plan.linears.begin(), plan.linears.end(), [](const LinearPlan& l) { return l.quantized(); });
  }

  void open(const SitePlan& plan, SiteWork& site) {
    site.open = open_linears(plan, spec_);
    auto next = site.open.begin();
    for (const LinearPlan& linear : plan.linears)
      if (shares_widths(linear))
        (next++)->layer = [this, &linear] { return float_layer(result_.weights[linear.role], linear.name, pool_); };
  }

  Status observe(HiddenStream& stream, const SitePlan& plan, size_t at, unsigned statistics, SiteStatistics& out) {
    out.absmax.assign(static_cast<size_t>(plan.inputs), 0);
    if (statistics & kGram) out.gram = Gram(plan.inputs);
    if (statistics & kSquares) out.squares.assign(static_cast<size_t>(plan.inputs), 0);
    if (statistics & kRows) out.rows = RowSample(stream.tokens(), plan.inputs);
    Status seen;
    const SampleTap tap = [&](const float* x, int64_t length, int64_t width) {
      // Always looked at: a value that is not finite would spoil every statistic.
      if (seen) seen = observe_absmax(x, length, out.absmax, plan.name, pool_);
      if (seen && statistics & kGram) out.gram.add(x, length, pool_);
      if (seen && statistics & kSquares) observe_squares(x, length, out.squares, pool_);
      if (seen && statistics & kMoments) observe_moments(x, length, width, out.moments, pool_);
      if (seen && statistics & kRows) out.rows.add(x, length);
    };
    const ProjectionTap projected = [&](const Projections& from, const PositionTables& positions, int64_t samples,
                                        int64_t length) {
      observe_projections(spec_, from, positions, samples, length, projected_, pool_);
    };
    const bool looks = &stream == streams_.calibration && has_open_fractions(result_.attention);
    NIBBLE_DO(stream.reach(index_, *packed_, at, &tap, pool_, looks ? &projected : nullptr));
    return seen;
  }

  // A linear between the steps that decide about it and the one that solves it.
  struct Decided {
    Decided(const LinearPlan& of, FloatLayer from, SiteWork& site)
        : plan(of), layer(std::move(from)), work{site, layer, of.weights, of.activations, {}, -1} {}

    const LinearPlan& plan;
    FloatLayer layer;
    LinearWork work;
    size_t next = 0;  // step
  };

  // Those with tables by column decide first, all of them, because their tables have to agree.
  Status quantize_linears(const SitePlan& plan, SiteWork& site, const SiteStatistics& calibration,
                          const SiteStatistics& validation) {
    std::vector<std::unique_ptr<Decided>> by_column;
    for (const LinearPlan& linear : plan.linears) {
      if (!linear.quantized()) continue;
      NIBBLE_TRY(std::unique_ptr<Decided> decided, decide(linear, site));
      if (linear.has_tables_by_column()) {
        by_column.push_back(std::move(decided));
      } else {
        NIBBLE_DO(solve(*decided, calibration, validation));
      }
    }
    NIBBLE_DO(agree(by_column));
    for (auto& decided : by_column) {
      NIBBLE_DO(solve(*decided, calibration, validation));
      decided.reset();
    }
    return {};
  }

  Result<std::unique_ptr<Decided>> decide(const LinearPlan& plan, SiteWork& site) {
    if (plan.sparse24 && (site.inputs - static_cast<int64_t>(site.kept.size())) % 4 != 0)
      return fail(ErrorCode::usage, "{}: a 2:4 pattern over {} dense columns, which 4 does not divide", plan.name,
                  site.inputs - static_cast<int64_t>(site.kept.size()));
    NIBBLE_TRY(FloatLayer layer, float_layer(result_.weights[plan.role], plan.name, pool_));
    rotate(layer, site.kept, site.rotation, pool_);
    auto out = std::make_unique<Decided>(plan, std::move(layer), site);
    LinearWork& work = out->work;
    if (shares_widths(plan)) work.widths = site.widths;
    if (plan.reads_sensitivities()) {
      NIBBLE_TRY(work.sensitivities, sensitivities_->read(index_, plan.role));
    }
    for (; !plan.steps[out->next].row->solves; ++out->next)
      NIBBLE_DO(plan.steps[out->next].step->apply_to_linear(work, pool_));
    return out;
  }

  // Each column has the greatest of the exponents that it needs.
  Status agree(const std::vector<std::unique_ptr<Decided>>& linears) {
    std::vector<int8_t> greatest;
    for (const auto& linear : linears) {
      LinearWork& work = linear->work;
      if (work.learned.exponents.empty()) {
        NIBBLE_TRY(const LayerForm form, form_of(work, false));
        work.learned = learn_levels(linear->layer, form, {}, make_kmeans, pool_);
      }
      greatest.resize(work.learned.exponents.size(), int8_t{kLeastExponent});
      for (size_t k = 0; k < greatest.size(); ++k) greatest[k] = std::max(greatest[k], work.learned.exponents[k]);
    }
    for (const auto& linear : linears) linear->work.learned.exponents = greatest;
    return {};
  }

  Status solve(Decided& linear, const SiteStatistics& calibration, const SiteStatistics& validation) {
    const LinearPlan& plan = linear.plan;
    LinearWeight& weight = result_.weights[plan.role];
    for (size_t i = linear.next; i < plan.steps.size(); ++i)
      NIBBLE_DO(plan.steps[i].step->apply_to_linear(linear.work, pool_));
    weight = std::move(*linear.work.solved);
    NIBBLE_DO(weight.validate(plan.name));
    LinearReport report = report_on(linear.layer, weight, calibration, validation);
    report.damping = linear.work.damping;
    if (!calibration.rows.empty()) NIBBLE_DO(try_out(plan.role, weight, calibration.rows, report));
    result_.reports.push_back(std::move(report));
    return replace(plan.role, [&] { return effective(weight, pool_); });
  }

  Status convert(const LinearPlan& plan, LinearWeight& weight) {
    if (weight.format.levels == plan.weights.levels) return {};
    NIBBLE_TRY(const FloatLayer layer, float_layer(weight, plan.name, pool_));
    NIBBLE_TRY(weight, converted(layer, plan.weights.levels));
    return replace(plan.role, [&] { return weight; });
  }

  // Later sites and blocks see the weights as they are now.
  template <class Weights>
  Status replace(Role role, const Weights& weights) {
    if (!packed_) return {};
    NIBBLE_TRY(packed_->linears[static_cast<size_t>(role)], PackedLinear::pack(weights(), isa_, pool_));
    return {};
  }

  // The solved layer as it will be run, beside the original one.
  Status try_out(Role role, const LinearWeight& solved, const RowSample& rows, LinearReport& report) {
    NIBBLE_TRY(const PackedLinear packed, PackedLinear::pack(solved, isa_, pool_));
    const RunError found = run_error((*packed_)[role], packed, solved.bias, rows, isa_, pool_);
    report.run_error = found.error;
    report.run_cosine = found.cosine;
    return {};
  }

  LinearReport report_on(const FloatLayer& layer, const LinearWeight& solved, const SiteStatistics& calibration,
                         const SiteStatistics& validation) {
    LinearReport report;
    report.name = layer.name;
    report.weights = to_string(solved.format);
    report.activations = to_string(solved.activations);
    report.rows = solved.rows;
    report.columns = solved.columns;
    report.kept = solved.kept_count();
    report.stored_bytes = solved.matrix_bytes();
    report.weight_error = weight_error(layer, solved, pool_);
    const ClipRatios clip = clip_ratios(layer, solved, pool_);
    report.clip_mean = clip.mean;
    report.clip_least = clip.least;
    if (!calibration.gram.empty() || !validation.gram.empty()) {
      const LinearWeight rounded = round_on_grids_of(solved, layer, pool_);
      measure(layer, solved, rounded, calibration.gram, report.output_error, report.rounding_output_error);
      measure(layer, solved, rounded, validation.gram, report.validation_error, report.rounding_validation_error);
    }
    return report;
  }

  void measure(const FloatLayer& layer, const LinearWeight& solved, const LinearWeight& rounded, const Gram& gram,
               double& error, double& rounding_error) {
    if (gram.empty()) return;
    const double whole = output_energy(layer, nullptr, gram, pool_);
    error = output_error(layer, solved, whole, gram, pool_);
    rounding_error = output_error(layer, rounded, whole, gram, pool_);
  }

  const Spec& spec_;
  int64_t index_;
  Streams streams_;
  const SensitivityFile* sensitivities_;
  Isa isa_;
  ThreadPool& pool_;
  BlockResult result_;
  AttentionMagnitudes projected_;      // of the calibration text, where fractions are open
  std::optional<PackedBlock> packed_;  // float, as far as quantized: what the text runs through
};

}  // namespace

Result<BlockResult> quantize_block(const Spec& spec, const std::vector<SitePlan>& plan,
                                   const AttentionFormats& attention, int64_t index, BlockWeights original,
                                   const Streams& streams, const SensitivityFile* sensitivities, double left_over,
                                   Isa isa, ThreadPool& pool, const std::function<void(size_t)>& told) {
  BlockQuantizer quantizer(spec, attention, index, std::move(original), streams, sensitivities, left_over, isa, pool);
  NIBBLE_DO(quantizer.prepare());
  for (size_t site = 0; site < plan.size(); ++site) {
    NIBBLE_DO(quantizer.quantize_site(plan[site], site));
    told(site);
  }
  NIBBLE_DO(quantizer.advance());
  return quantizer.take();
}

}  // namespace nibble
