#include "quantize/solve/allocate_step.h"

#include <algorithm>
#include <cmath>

#include "quantize/solve/allocate.h"
#include "quantize/solve/kmeans.h"
#include "quantize/solve/levels.h"

namespace nibble {
namespace {

constexpr int64_t kColumnsTogether = 16;  // gathered from the rows at a time: a cache line

struct AllocateOptions {
  double bits = 0, swap = 0;
  bool stored = true, by_error = true;
  int64_t unit = 32;
  int least = 1, most = kMostWidth;
};

// Levels and an exponent.
double bits_of_table(int width) { return 8 * (width > kTableBits ? 1 : 1 + std::exp2(width)); }

double sum_of_rows(const SiteWork& site) {
  double rows = 0;
  for (const OpenLinear& linear : site.open) rows += static_cast<double>(linear.rows);
  return rows;
}

int64_t dense_count(const SiteWork& site) { return site.inputs - static_cast<int64_t>(site.kept.size()); }

class Allocate final : public Step {
 public:
  explicit Allocate(const AllocateOptions& options) : options_(options) {}
  unsigned needs() const override { return kSquares; }

  bool gives_bits(const NumberFormat& weights) const override { return weights.is_learned() && weights.bits == 0; }

  double open_bits(const SiteWork& site) const override {
    if (options_.stored) return given(site);
    const double part = options_.bits - std::floor(options_.bits);  // of the channels, in the wider tables
    const int width = static_cast<int>(options_.bits);
    const double tables = (1 - part) * bits_of_table(width) + part * bits_of_table(width + 1) + 8;
    return given(site) + tables * static_cast<double>(dense_count(site)) + stored_beside(site);
  }

  double least_open_bits(const SiteWork& site) const override { return bits_at(site, options_.least); }

  std::vector<uint8_t> even_widths(const SiteWork& site) const override {
    const std::vector<double> alike(static_cast<size_t>(dense_count(site)));
    return widths_by_norm(alike, channel_bits(site), budget_of(site), 0);
  }

  Status check_open(const SiteWork& site) const override {
    if (site.open.empty()) return {};
    const double least = bits_at(site, options_.least), most = bits_at(site, options_.most), weights = weights_of(site);
    if (given(site) > most)
      return fail(ErrorCode::usage, "{}: {} bits a weight are more than {} can take; the most is {:.3f}: {} a channel",
                  site.name, options_.bits, site.open.size() == 1 ? "its linear" : "its linears",
                  std::floor(1000 * most / weights) / 1000, options_.most);
    if (given(site) >= least) return {};
    return fail(ErrorCode::usage,
                "{}: {} bits a weight are too few for {}; the least is {:.3f}: {} a channel, and what "
                "is stored beside",
                site.name, options_.bits, site.open.size() == 1 ? "its linear" : "its linears",
                std::ceil(1000 * least / weights) / 1000, options_.least);
  }

  Status apply_to_site(SiteWork& site, ThreadPool& pool) const override {
    if (site.open.empty()) return {};
    NIBBLE_DO(check_open(site));
    const std::vector<int32_t> dense = dense_columns_of(site.inputs, site.kept);
    const ChannelBits bits = channel_bits(site);
    const double budget = budget_of(site) + site.left_over;
    if (options_.by_error) {
      NIBBLE_TRY(const auto costs, shared_costs(site, dense, pool));
      site.widths = widths_by_cost(*costs, bits, budget);
    } else {
      std::vector<double> norms;
      for (const int32_t column : dense) norms.push_back(site.statistics->squares[static_cast<size_t>(column)]);
      site.widths = widths_by_norm(norms, bits, budget, options_.swap);
    }
    site.left_over = budget - bits.of(site.widths);
    return {};
  }

 private:
  // Stored bits that do not depend on the widths: kept columns and single weights kept apart.
  static double stored_beside(const SiteWork& site) {
    double bits = 0;
    for (const OpenLinear& linear : site.open) {
      bits += static_cast<double>(16 * linear.rows + 32) * static_cast<double>(site.kept.size());
      if (linear.sparse == 0) continue;
      const int64_t each = 16 + 8 * sparse_column_bytes(dense_count(site));
      bits += static_cast<double>(each * linear.sparse + 32 * linear.rows);
    }
    return bits;
  }
  // What the bits are an average over: all weights, or where codes alone count those that have codes.
  double weights_of(const SiteWork& site) const {
    return sum_of_rows(site) * static_cast<double>(options_.stored ? site.inputs : dense_count(site));
  }
  double given(const SiteWork& site) const { return options_.bits * weights_of(site); }
  // For the widths: what the site is given, less what does not depend on them.
  double budget_of(const SiteWork& site) const { return given(site) - other_bits(site); }
  double other_bits(const SiteWork& site) const { return options_.stored ? stored_beside(site) : 0; }
  // With that width for every channel.
  double bits_at(const SiteWork& site, int width) const {
    return other_bits(site) + static_cast<double>(dense_count(site)) * channel_bits(site).stored[width];
  }

  ChannelBits channel_bits(const SiteWork& site) const {
    ChannelBits bits{options_.least, options_.most, {}, options_.unit};
    for (int width = options_.least; width <= options_.most; ++width)
      for (const OpenLinear& linear : site.open)
        bits.stored[width] +=
            static_cast<double>(linear.rows * width) + (options_.stored ? bits_of_table(width) + 8 : 0);
    return bits;
  }

  // They do not depend on the budget.
  Result<std::shared_ptr<const std::vector<double>>> shared_costs(SiteWork& site, std::span<const int32_t> dense,
                                                                  ThreadPool& pool) const {
    const std::string key = fmt::format("allocate {} {}", options_.least, options_.most);
    if (const auto found = site.shared.find(key); found != site.shared.end())
      return std::static_pointer_cast<const std::vector<double>>(found->second);
    NIBBLE_TRY(std::vector<double> made, costs_of(site, dense, pool));
    const auto costs = std::make_shared<const std::vector<double>>(std::move(made));
    site.shared[key] = costs;
    return costs;
  }

  // [I][kMostWidth + 1].
  Result<std::vector<double>> costs_of(const SiteWork& site, std::span<const int32_t> dense, ThreadPool& pool) const {
    std::vector<double> costs(dense.size() * (kMostWidth + 1));
    for (const OpenLinear& linear : site.open) {
      NIBBLE_TRY(const FloatLayer layer, linear.layer());
      pool.run_ranges(static_cast<int64_t>(dense.size()), kColumnsTogether,
                      [&](int64_t begin, int64_t end) { add_costs(site, layer, dense, begin, end, costs); });
    }
    return costs;
  }

  void add_costs(const SiteWork& site, const FloatLayer& layer, std::span<const int32_t> dense, int64_t begin,
                 int64_t end, std::span<double> costs) const {
    const auto rows = static_cast<size_t>(layer.rows);
    std::vector<float> columns(static_cast<size_t>(end - begin) * rows);
    for (size_t n = 0; n < rows; ++n)
      for (int64_t i = begin; i < end; ++i)
        columns[static_cast<size_t>(i - begin) * rows + n] =
            layer.row(static_cast<int64_t>(n))[static_cast<size_t>(dense[static_cast<size_t>(i)])];
    KMeans kmeans;
    const int most_table = std::min(options_.most, kTableBits);
    for (int64_t i = begin; i < end; ++i) {
      const auto values = std::span<const float>(columns).subspan(static_cast<size_t>(i - begin) * rows, rows);
      const double energy = site.statistics->squares[static_cast<size_t>(dense[static_cast<size_t>(i)])];
      double* const of_channel = costs.data() + i * (kMostWidth + 1);
      kmeans.solve(values, {}, 1 << most_table);
      for (int width = options_.least; width <= options_.most; ++width)
        of_channel[width] +=
            energy * (width > kTableBits ? fit_exponent(values, {}, width).cost : kmeans.cost(1 << width));
    }
  }

  AllocateOptions options_;
};

Result<bool> read_choice(JsonReader& parameters, const char* key, const char* yes, const char* no) {
  NIBBLE_TRY(const std::string found, parameters.string(key, yes));
  if (found == yes || found == no) return found == yes;
  return fail(ErrorCode::usage, "{}: \"{}\" is \"{}\"; there are {} and {}", parameters.where(), key, found, yes, no);
}

}  // namespace

Result<StepPointer> read_allocate(JsonReader& parameters) {
  AllocateOptions options;
  NIBBLE_TRY(options.bits, parameters.number("bits", 1, 16));
  NIBBLE_TRY(options.stored, read_choice(parameters, "count", "stored", "codes"));
  NIBBLE_TRY(options.by_error, read_choice(parameters, "by", "error", "norm"));
  NIBBLE_TRY(options.swap, parameters.number("swap", 0, 0.49, 0));
  NIBBLE_TRY(options.unit, parameters.integer("unit", 1, 1024, options.unit));
  NIBBLE_TRY(const int64_t least, parameters.integer("least", 1, kMostWidth, 1));
  NIBBLE_TRY(const int64_t most, parameters.integer("most", least, kMostWidth, kMostWidth));
  options.least = static_cast<int>(least);
  options.most = static_cast<int>(most);
  if (!options.stored && options.bits > options.most)
    return fail(ErrorCode::usage, "{}: \"bits\" is {} with \"most\" at {}; expected no more", parameters.where(),
                options.bits, options.most);
  if (options.by_error && options.swap > 0)
    return fail(ErrorCode::usage, "{}: \"swap\" is part of the rule \"norm\"", parameters.where());
  return std::make_shared<Allocate>(options);
}

}  // namespace nibble
