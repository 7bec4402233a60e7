#include "eval/report/collect.h"

#include <algorithm>
#include <map>
#include <memory>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "model/channel_order.h"
#include "quantize/pipeline/record.h"
#include "quantize/pipeline/statistics_file.h"
#include "quantize/solve/error.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// What a run of quantize left in the folder, by name. Empty where there is none of it.
struct Recorded {
  std::string tool;
  std::map<std::string, LinearReport> linears;
  std::map<std::string, SiteReport> sites;
  std::map<std::string, std::vector<float>> absmax;
};

template <class Report>
std::map<std::string, Report> by_name(std::vector<Report> reports) {
  std::map<std::string, Report> out;
  for (Report& report : reports) out.insert_or_assign(report.name, std::move(report));
  return out;
}

Result<Recorded> read_recorded(const fs::path& folder) {
  Recorded out;
  std::error_code error;
  if (!fs::exists(folder / kManifestName, error)) return out;
  NIBBLE_TRY(const Json manifest, read_manifest(folder));
  Record record;
  NIBBLE_DO(read_reports(manifest, record, (folder / kManifestName).string()));
  out.linears = by_name(std::move(record.reports));
  out.sites = by_name(std::move(record.sites));
  NIBBLE_TRY(out.absmax, read_statistics(folder));
  if (const Json* tool = find_path(manifest, {"inputs", "tool"}); tool != nullptr && tool->is_string())
    out.tool = tool->get<std::string>();
  return out;
}

Status expect_same_spec(const ModelSource& model, const ModelSource& reference) {
  const Json ours = to_json(model.spec()), theirs = to_json(untied_like(reference.spec(), model.spec()));
  for (const auto& item : ours.items())
    if (theirs[item.key()] != item.value())
      return fail(ErrorCode::corrupt, "{} is no version of {}: its \"{}\" is {}, the reference's is {}",
                  model.folder().string(), reference.folder().string(), item.key(), dump_json(item.value()),
                  dump_json(theirs[item.key()]));
  return {};
}

double bits_per(int64_t bytes, int64_t weights) {
  return weights > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(weights) : 0;
}

std::string name_of_folder(const fs::path& folder) {
  std::error_code error;
  const fs::path whole = fs::weakly_canonical(folder, error);
  return (error ? folder : whole).filename().string();
}

class Collector {
 public:
  Collector(const ModelSource& model, const ModelSource* reference, Recorded recorded, ThreadPool& pool)
      : model_(model), reference_(reference), recorded_(std::move(recorded)), pool_(pool) {}

  Status describe();
  Status add_block(int64_t index);
  LayerReport take();

 private:
  LayerRow row_of(int64_t block, Role role, const LinearWeight& weight) const;
  Status add_recorded(LayerRow& row) const;
  Status compare(LayerRow& row, const LinearWeight& weight, const LinearWeight& original) const;
  Result<SiteRow> site_row(int64_t block, const Site& site, const BlockWeights& weights) const;

  const ModelSource& model_;
  const ModelSource* reference_;  // may be null
  Recorded recorded_;
  ThreadPool& pool_;
  LayerReport report_;
  ChannelOrder order_;  // of the model's channels, in terms of the reference's
  int64_t integer_bytes_ = 0, integer_weights_ = 0, linear_bytes_ = 0, linear_weights_ = 0;
};

Status Collector::describe() {
  report_.model = name_of_folder(model_.folder());
  if (reference_ != nullptr) report_.reference = name_of_folder(reference_->folder());
  report_.family = model_.spec().family;
  report_.tool = recorded_.tool;
  if (const Json* quantization = model_.quantization())
    if (const Json* name = find_path(*quantization, {"recipe", "name"}); name != nullptr && name->is_string())
      report_.recipe = name->get<std::string>();
  NIBBLE_TRY(const std::vector<AttentionFormats> attention, attention_of(model_));
  if (!std::all_of(attention.begin(), attention.end(), [](const auto& block) { return block.plain(); }))
    report_.attention = summary_of(attention);
  report_.parameters = parameter_count(model_.spec());
  report_.file_bytes = model_.file_bytes();
  report_.blocks = model_.spec().layers;
  NIBBLE_TRY(order_, order_of(model_));
  NIBBLE_TRY(const Checkpoint checkpoint, Checkpoint::open(model_.folder()));
  int64_t bytes = 0;
  for (const TensorView* tensor : checkpoint.tensors()) bytes += static_cast<int64_t>(tensor->bytes.size());
  report_.bits_per_weight = bits_per(bytes, report_.parameters);
  return {};
}

Status Collector::add_block(int64_t index) {
  NIBBLE_TRY(const BlockWeights weights, model_.block(index));
  std::optional<BlockWeights> original;
  if (reference_ != nullptr) {
    NIBBLE_TRY(original, reference_->block(index));
    reorder(order_, model_.spec(), index, *original);
  }
  for (Role role : kAllRoles) {
    const LinearWeight& weight = weights[role];
    if (weight.rows == 0) continue;
    LayerRow row = row_of(index, role, weight);
    NIBBLE_DO(add_recorded(row));
    if (original) NIBBLE_DO(compare(row, weight, (*original)[role]));
    (weight.format.has_codes() ? integer_bytes_ : linear_bytes_) += row.stored_bytes;
    (weight.format.has_codes() ? integer_weights_ : linear_weights_) += row.rows * row.columns;
    report_.linears.push_back(std::move(row));
  }
  for (const Site& site : sites_of(model_.spec())) {
    NIBBLE_TRY(SiteRow row, site_row(index, site, weights));
    report_.sites.push_back(std::move(row));
  }
  return {};
}

LayerRow Collector::row_of(int64_t block, Role role, const LinearWeight& weight) const {
  LayerRow row;
  row.name = linear_name(block, role);
  row.block = block;
  row.role = name_of(role);
  row.weights = to_string(weight.format);
  row.activations = to_string(weight.activations);
  if (weight.rotation > 0) row.activations += fmt::format(", rotated by {}", weight.rotation);
  row.rows = weight.rows;
  row.columns = weight.columns;
  row.kept = weight.kept_count();
  row.stored_bytes = weight.matrix_bytes();
  row.bits_per_weight = bits_per(row.stored_bytes, row.rows * row.columns);
  return row;
}

std::optional<double> measured(double error) { return error < 0 ? std::nullopt : std::optional(error); }

Status Collector::add_recorded(LayerRow& row) const {
  const auto found = recorded_.linears.find(row.name);
  if (found == recorded_.linears.end()) return {};
  const LinearReport& report = found->second;
  if (report.rows != row.rows || report.columns != row.columns || report.weights != row.weights)
    return fail(ErrorCode::corrupt, "{}: \"{}\" is {} [{}, {}] there, but {} [{}, {}] in the tensors",
                (model_.folder() / kManifestName).string(), row.name, report.weights, report.rows, report.columns,
                row.weights, row.rows, row.columns);
  row.weight_error = report.weight_error;
  row.output_error = report.run_error;
  row.output_cosine = report.run_cosine;
  row.solver_error = measured(report.output_error);
  row.rounding_solver_error = measured(report.rounding_output_error);
  row.clip_mean = report.clip_mean;
  row.clip_least = report.clip_least;
  return {};
}

Status Collector::compare(LayerRow& row, const LinearWeight& weight, const LinearWeight& original) const {
  NIBBLE_TRY(FloatLayer layer, float_layer(original, row.name, pool_));
  rotate(layer, weight.kept_columns, weight.rotation, pool_);
  row.weight_error = weight_error(layer, weight, pool_);
  return {};
}

// Linears of a site that are quantized keep the same columns; those that are not, none.
Result<SiteRow> Collector::site_row(int64_t block, const Site& site, const BlockWeights& weights) const {
  SiteRow row;
  row.name = fmt::format("blocks.{}.{}", block, site.name);
  row.block = block;
  row.site = site.name;
  row.inputs = shape_of(model_.spec(), site.roles[0]).columns;
  for (Role role : site.roles)
    if (row.kept.empty()) row.kept = weights[role].kept_columns;
  if (const auto found = recorded_.sites.find(row.name); found != recorded_.sites.end()) {
    row.maximum = found->second.maximum;
    row.median = found->second.median;
    row.kurtosis = found->second.kurtosis;
  }
  if (const auto found = recorded_.absmax.find(row.name); found != recorded_.absmax.end()) row.absmax = found->second;
  if (!row.absmax.empty() && static_cast<int64_t>(row.absmax.size()) != row.inputs)
    return fail(ErrorCode::corrupt, "{}: \"{}\" has {} channels, the model {}",
                (model_.folder() / kStatisticsName).string(), row.name, row.absmax.size(), row.inputs);
  return row;
}

LayerReport Collector::take() {
  report_.quantized_bits_per_weight =
      integer_weights_ > 0 ? bits_per(integer_bytes_, integer_weights_) : bits_per(linear_bytes_, linear_weights_);
  return std::move(report_);
}

}  // namespace

Result<LayerReport> collect_report(const fs::path& folder, const fs::path& reference, ThreadPool& pool,
                                   const ProgressCallback& progress) {
  NIBBLE_TRY(const std::unique_ptr<ModelSource> model, open_model(folder));
  std::unique_ptr<ModelSource> original;
  if (!reference.empty()) {
    NIBBLE_TRY(original, open_model(reference));
    NIBBLE_DO(expect_same_spec(*model, *original));
  }
  NIBBLE_TRY(Recorded recorded, read_recorded(folder));
  Collector collector(*model, original.get(), std::move(recorded), pool);
  NIBBLE_DO(collector.describe());
  const int64_t blocks = model->spec().layers;
  ProgressMeter meter(static_cast<double>(blocks), progress);
  for (int64_t index = 0; index < blocks; ++index) {
    NIBBLE_DO(collector.add_block(index));
    meter.advance(1, fmt::format("block {} of {}", index + 1, blocks));
  }
  return collector.take();
}

}  // namespace nibble
