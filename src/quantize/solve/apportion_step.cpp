#include "quantize/solve/apportion_step.h"

#include <algorithm>
#include <cmath>

#include "core/checked.h"
#include "quantize/solve/apportion.h"
#include "quantize/solve/error.h"
#include "quantize/solve/gptq_step.h"
#include "quantize/solve/round.h"

namespace nibble {
namespace {

constexpr size_t kTrials = 32;  // numbers of swapped groups that are tried, at equal distances

struct ApportionOptions {
  double bits = 0, damp = 0.01;
  bool stored = true, by_error = true;
  int least = 1, most = kMostWidth;
  Clip clip;
};

bool is_open(const NumberFormat& format) { return format.is_integer() && format.bits == 0; }

class Apportion final : public Step {
 public:
  explicit Apportion(const ApportionOptions& options) : options_(options) {}

  unsigned needs() const override { return kGram; }
  bool gives_bits(const NumberFormat& weights) const override { return is_open(weights); }

  double open_bits(const SiteWork& site) const override {
    double bits = 0;
    for (const OpenLinear& linear : site.open)
      if (is_open(linear.format)) {
        const Costs costs = costs_of(linear.format, linear.rows, site.inputs, site.kept.size());
        bits += std::min(wanted(costs) + (options_.stored ? 0 : costs.beside), most_bits(costs));
      }
    return bits;
  }

  Status check_open(const SiteWork& site) const override {
    for (const OpenLinear& linear : site.open)
      if (is_open(linear.format))
        NIBBLE_DO(
            check_bits(costs_of(linear.format, linear.rows, site.inputs, site.kept.size()), linear.format, site.name));
    return {};
  }

  Status apply_to_linear(LinearWork& work, ThreadPool& pool) const override {
    if (!is_open(work.weights)) return {};
    SiteWork& site = work.site;
    // How many columns are kept is known only now.
    const Costs costs = costs_of(work.weights, work.layer.rows, site.inputs, site.kept.size());
    NIBBLE_DO(check_bits(costs, work.weights, work.layer.name));
    // Groups are of the columns that are not kept, as they are stored.
    const std::vector<int32_t> dense = dense_columns_of(work.layer.columns, site.kept);
    const std::vector<int64_t> sizes = group_sizes(work.weights, static_cast<int64_t>(dense.size()));
    NIBBLE_TRY(const auto shared, salience_of(work, dense, pool));
    const std::vector<float>& salience = *shared;
    LayerForm form = form_in(work, sizes, options_.least);
    if (!options_.by_error) {
      const std::vector<double> ranks = group_salience(work.layer, dense, salience, sizes, pool);
      NIBBLE_TRY(work.widths, best_swap(work, form, ranks, sizes, pool));
      return {};
    }
    const double budget = wanted(costs) - (options_.stored ? costs.beside : 0) + site.left_over;
    const auto rows = static_cast<double>(work.layer.rows);
    const std::vector<double> lost =
        group_costs(work.layer, form, dense, salience, options_.clip, options_.least, options_.most, pool);
    const std::vector<uint8_t> bits = bits_by_cost(lost, sizes, options_.least, options_.most, budget / rows);
    work.widths = widths_of_columns(bits, sizes);
    site.left_over = budget - rows * static_cast<double>(MixedSizes::of(work.widths).code_bits);
    return {};
  }

 private:
  // What the linears of a site share.
  Result<std::shared_ptr<const std::vector<float>>> salience_of(LinearWork& work, std::span<const int32_t> dense,
                                                                ThreadPool& pool) const {
    const std::string key = fmt::format("salience {}", options_.damp);
    auto& shared = work.site.shared;
    if (const auto found = shared.find(key); found != shared.end())
      return std::static_pointer_cast<const std::vector<float>>(found->second);
    NIBBLE_TRY(const auto factor, shared_factor(work, ColumnOrder::natural, false, options_.damp, pool));
    const auto made = std::make_shared<const std::vector<float>>(column_salience(*factor, dense));
    shared[key] = made;
    return made;
  }

  // In bits, but for the weights.
  struct Costs {
    double weights = 0;  // of the linear, kept ones as well
    double dense = 0;    // not kept
    double beside = 0;   // scales, offsets, widths and kept columns
  };
  double most_bits(const Costs& costs) const { return options_.most * costs.dense + costs.beside; }
  // What the linear is given: for all weights with what is stored beside, or for the codes, which only dense ones have.
  double wanted(const Costs& costs) const { return options_.bits * (options_.stored ? costs.weights : costs.dense); }

  // `usage` where the linear cannot do with what it is given, or cannot use it.
  Status check_bits(const Costs& costs, const NumberFormat& format, std::string_view name) const {
    const double least = options_.least * costs.dense + (options_.stored ? costs.beside : 0);
    if (options_.stored && wanted(costs) > most_bits(costs) + costs.weights / 100)
      return fail(ErrorCode::usage,
                  "{}: {} bits a weight are too many for {}; the most is {:.3f}: {} a code, and what is stored beside",
                  name, options_.bits, to_string(format), most_bits(costs) / costs.weights, options_.most);
    if (wanted(costs) >= least) return {};
    return fail(ErrorCode::usage,
                "{}: {} bits a weight are too few for {}; the least is {:.3f}: {} a code, and what is stored beside",
                name, options_.bits, to_string(format), std::ceil(1000 * least / costs.weights) / 1000, options_.least);
  }

  static Costs costs_of(const NumberFormat& format, int64_t rows, int64_t inputs, size_t kept_columns) {
    const auto kept = static_cast<int64_t>(kept_columns), dense = inputs - kept;
    const RowSizes row = row_sizes(format, dense, false);
    const int64_t bytes = rows * (row.groups * row.scale_bytes + row.offsets + 2 * kept) + 4 * kept;
    return {static_cast<double>(rows * inputs), static_cast<double>(rows * dense),
            8 * static_cast<double>(bytes + width_bytes(format, dense))};
  }

  // The linear with so many bits everywhere.
  static LayerForm form_in(const LinearWork& work, std::span<const int64_t> sizes, int bits) {
    LayerForm form{};
    form.weights = work.weights;
    form.activations = work.activations;
    form.kept = work.site.kept;
    form.kept_levels = work.site.kept_levels;
    form.rotation = work.site.rotation;
    form.widths = widths_of_columns(std::vector<uint8_t>(sizes.size(), static_cast<uint8_t>(bits)), sizes);
    return form;
  }

  // Bits of the columns.
  Result<std::vector<uint8_t>> best_swap(const LinearWork& work, LayerForm& form, std::span<const double> ranks,
                                         std::span<const int64_t> sizes, ThreadPool& pool) const {
    const size_t most = sizes.size() / 2, distance = std::max<size_t>(1, (most + kTrials - 1) / kTrials);
    std::vector<uint8_t> best;
    double least = 0;
    for (size_t swapped = 0; swapped <= most; swapped += distance) {
      form.widths = widths_of_columns(bits_by_rank(ranks, sizes, static_cast<int>(options_.bits), swapped), sizes);
      if (!best.empty() && form.widths == best) continue;
      NIBBLE_TRY(const LinearWeight trial, round_to_nearest(work.layer, form, options_.clip, pool));
      const double error = output_energy(work.layer, &trial, work.site.statistics->gram, pool);
      if (!best.empty() && error >= least) continue;
      least = error;
      best = form.widths;
    }
    return best;
  }

  ApportionOptions options_;
};

Result<bool> read_choice(JsonReader& parameters, const char* key, const char* yes, const char* no) {
  NIBBLE_TRY(const std::string found, parameters.string(key, yes));
  if (found == yes || found == no) return found == yes;
  return fail(ErrorCode::usage, "{}: \"{}\" is \"{}\"; there are {} and {}", parameters.where(), key, found, yes, no);
}

// The published rule goes one bit up and down from whole numbers of bits of the codes.
Status check_salience(const JsonReader& parameters, const ApportionOptions& options) {
  if (options.by_error) return {};
  if (options.stored || options.bits != std::floor(options.bits) || options.bits <= options.least ||
      options.bits >= options.most)
    return fail(
        ErrorCode::usage,
        "{}: \"by\": \"salience\" needs \"count\": \"codes\" and whole \"bits\" between {} and {}, one bit more "
        "and less among them; for any average there is \"error\"",
        parameters.where(), options.least, options.most);
  return {};
}

}  // namespace

Result<StepPointer> read_apportion(JsonReader& parameters) {
  ApportionOptions options;
  NIBBLE_TRY(options.bits, parameters.number("bits", 1, 16));
  NIBBLE_TRY(options.stored, read_choice(parameters, "count", "stored", "codes"));
  NIBBLE_TRY(options.by_error, read_choice(parameters, "by", "error", "salience"));
  NIBBLE_TRY(const int64_t least, parameters.integer("least", 1, kMostWidth, 1));
  NIBBLE_TRY(const int64_t most, parameters.integer("most", least, kMostWidth, kMostWidth));
  options.least = static_cast<int>(least);
  options.most = static_cast<int>(most);
  NIBBLE_TRY(options.damp, parameters.number("damp", 0, 10, 0.01));
  NIBBLE_TRY(options.clip, read_clip(parameters, options.by_error));
  if (!options.stored && options.bits > options.most)
    return fail(ErrorCode::usage, "{}: \"bits\" is {} with \"most\" at {}; expected no more", parameters.where(),
                options.bits, options.most);
  NIBBLE_DO(check_salience(parameters, options));
  return std::make_shared<Apportion>(options);
}

}  // namespace nibble
