#include "quantize/solve/levels_steps.h"

#include <algorithm>

#include "quantize/solve/bell.h"
#include "quantize/solve/binary.h"
#include "quantize/solve/sparse.h"

namespace nibble {
namespace {

constexpr int64_t kErrorParts = 32;  // of the rows whose errors are added

enum class WeightedBy : uint8_t { moments, fisher, none };

Result<WeightedBy> read_weighted_by(JsonReader& parameters) {
  NIBBLE_TRY(const std::string name, parameters.string("weighted_by", "moments"));
  if (name == "moments") return WeightedBy::moments;
  if (name == "fisher") return WeightedBy::fisher;
  if (name == "none") return WeightedBy::none;
  return fail(ErrorCode::usage, "{}: \"weighted_by\" is \"{}\"; there are moments, fisher and none", parameters.where(),
              name);
}

Importance importance_of(const LinearWork& work, WeightedBy by) {
  Importance out;
  if (by == WeightedBy::fisher) {
    out.weights = work.sensitivities;
    out.width = work.layer.columns;
  } else if (by == WeightedBy::moments) {
    const std::vector<double>& squares = work.site.statistics->squares;
    const double most = *std::max_element(squares.begin(), squares.end());
    for (const double square : squares) out.channels.push_back(static_cast<float>(most > 0 ? square / most : 1));
  }
  return out;
}

// What the steps that learn levels have in common.
class LevelsStep : public Step {
 public:
  explicit LevelsStep(WeightedBy by) : by_(by) {}
  unsigned needs() const override { return by_ == WeightedBy::moments ? kSquares : kNoStatistics; }
  bool needs_sensitivities() const override { return by_ == WeightedBy::fisher; }

  Status apply_to_linear(LinearWork& work, ThreadPool& pool) const override {
    if (!work.weights.is_learned()) return {};
    NIBBLE_TRY(LayerForm form, form_of(work, false));
    apply(work, form, importance_of(work, by_), pool);
    return {};
  }

 private:
  virtual void apply(LinearWork& work, LayerForm& form, const Importance& importance, ThreadPool& pool) const = 0;

  WeightedBy by_;
};

class KMeansStep final : public LevelsStep {
 public:
  using LevelsStep::LevelsStep;

 private:
  void apply(LinearWork& work, LayerForm& form, const Importance& importance, ThreadPool& pool) const override {
    work.learned = learn_levels(work.layer, form, importance, make_kmeans, pool);
  }
};

class BinaryStep final : public LevelsStep {
 public:
  BinaryStep(WeightedBy by, const BinaryOptions& options) : LevelsStep(by), options_(options) {}

  Status check(const NumberFormat& weights, const NumberFormat&, int64_t, std::string_view where) const override {
    if (!weights.is_learned()) return {};
    const int most = std::min(kMostBinaryBits, options_.linear_bits - 1);
    if (weights.bits >= 1 && weights.bits <= most) return {};
    return fail(ErrorCode::usage, "{}: binary codings of {} linear bits are for 1 to {} bits, not for weights in {}",
                where, options_.linear_bits, most, to_string(weights));
  }

 private:
  void apply(LinearWork& work, LayerForm& form, const Importance& importance, ThreadPool& pool) const override {
    work.learned = learn_levels(work.layer, form, importance, make_binary(options_), pool);
  }

  BinaryOptions options_;
};

// By group, or column: the weighted sum of squared errors of all rows on the form's tables.
std::vector<double> errors_of_groups(const FloatLayer& layer, const LayerForm& form, const Importance& importance,
                                     ThreadPool& pool) {
  const LinearWeight weight = begin_layer(layer, form, pool);
  const std::vector<int32_t> dense = dense_columns_of(layer.columns, form.kept);
  const auto size = static_cast<size_t>(form.weights.group_size(weight.dense_columns()));
  const auto groups = static_cast<size_t>(weight.groups());
  // Sums of fixed parts of the rows, which are added in order, whoever ran them; few, as there may be a group for every
  // column.
  std::vector<double> of_parts(kErrorParts * groups), sums(groups);
  pool.run(kErrorParts, [&](int64_t part) {
    std::vector<float> counts(dense.size());
    double* const out = of_parts.data() + static_cast<size_t>(part) * groups;
    for (int64_t n = part * layer.rows / kErrorParts; n < (part + 1) * layer.rows / kErrorParts; ++n) {
      importance.row(n, dense, counts);
      for (int64_t at = weight.sparse.empty() ? 0 : weight.sparse.begin(n);
           !weight.sparse.empty() && at < weight.sparse.end(n); ++at)
        counts[static_cast<size_t>(weight.sparse.columns[static_cast<size_t>(at)])] = 0;  // kept apart
      for (size_t k = 0; k < dense.size(); ++k) {
        const float value = layer.row(n)[static_cast<size_t>(dense[k])];
        const auto error = static_cast<double>(weight.grid(n, static_cast<int64_t>(k / size)).round(value) - value);
        out[k / size] += static_cast<double>(counts[k]) * error * error;
      }
    }
  });
  for (size_t i = 0; i < of_parts.size(); ++i) sums[i % groups] += of_parts[i];
  return sums;
}

class BellStep final : public LevelsStep {
 public:
  using LevelsStep::LevelsStep;

  Status check(const NumberFormat& weights, const NumberFormat&, int64_t, std::string_view where) const override {
    if (!weights.is_learned() || weights.bits == 2) return {};
    return fail(ErrorCode::usage, "{}: +-a and +-b are for 2 bits, not for weights in {}", where, to_string(weights));
  }

 private:
  void apply(LinearWork& work, LayerForm& form, const Importance& importance, ThreadPool& pool) const override {
    form.learned = learn_levels(work.layer, form, importance, make_binary({}), pool);
    const LearnedLevels residual = form.learned;
    const std::vector<double> of_residual = errors_of_groups(work.layer, form, importance, pool);
    form.learned = learn_levels(work.layer, form, importance, make_bell, pool);
    const std::vector<double> of_bell = errors_of_groups(work.layer, form, importance, pool);
    work.learned = form.learned;
    for (size_t table = 0; table < residual.exponents.size(); ++table) {
      const size_t at = table % of_bell.size();  // of the groups of a row, or of all columns
      if (of_residual[at] >= of_bell[at]) continue;
      work.learned.exponents[table] = residual.exponents[table];
      for (size_t i = 4 * table; i < 4 * (table + 1); ++i) work.learned.levels[i] = residual.levels[i];
    }
  }
};

class SparseStep final : public LevelsStep {
 public:
  SparseStep(WeightedBy by, const SparseShares& shares) : LevelsStep(by), shares_(shares) {}
  int64_t most_sparse(int64_t weights) const override { return nibble::most_sparse(shares_, weights); }

 private:
  void apply(LinearWork& work, LayerForm& form, const Importance& importance, ThreadPool& pool) const override {
    choose_sparse(work.layer, form, shares_, importance, make_kmeans, pool);
    work.sparse = std::move(form.sparse);
  }

  SparseShares shares_;
};

}  // namespace

Result<StepPointer> read_kmeans(JsonReader& parameters) {
  NIBBLE_TRY(const WeightedBy by, read_weighted_by(parameters));
  return std::make_shared<KMeansStep>(by);
}

Result<StepPointer> read_binary(JsonReader& parameters) {
  NIBBLE_TRY(const WeightedBy by, read_weighted_by(parameters));
  BinaryOptions options;
  NIBBLE_TRY(const int64_t bits, parameters.integer("linear_bits", 3, kMostLinearBits, options.linear_bits));
  NIBBLE_TRY(const int64_t scales, parameters.integer("scales", 0, 25, options.scales));
  options.linear_bits = static_cast<int>(bits);
  options.scales = static_cast<int>(scales);
  return std::make_shared<BinaryStep>(by, options);
}

Result<StepPointer> read_bell(JsonReader& parameters) {
  NIBBLE_TRY(const WeightedBy by, read_weighted_by(parameters));
  return std::make_shared<BellStep>(by);
}

Result<StepPointer> read_sparse(JsonReader& parameters) {
  NIBBLE_TRY(const WeightedBy by, read_weighted_by(parameters));
  SparseShares shares;
  for (const auto& [key, share] : {std::pair("sensitive", &shares.sensitive),
                                   {"effect", &shares.effect},
                                   {"magnitude", &shares.magnitude},
                                   {"loss", &shares.loss}}) {
    NIBBLE_TRY(*share, parameters.number(key, 0, 0.1, 0));
  }
  if (shares.empty())
    return fail(ErrorCode::usage,
                "{}: expected a share of \"sensitive\", \"effect\", \"magnitude\" or \"loss\" above 0",
                parameters.where());
  return std::make_shared<SparseStep>(by, shares);
}

}  // namespace nibble
