#include "search/fit_averages.h"

#include <algorithm>
#include <cmath>

#include "quantize/pipeline/estimate.h"
#include "search/footprint.h"

namespace nibble::search {
namespace {

constexpr double kMostOwn = 8;  // bits of the recipe's own average

}  // namespace

bool FitAverages::uses_added(const Choice& choice) const {
  return own_is_added_ && std::find(choice.begin(), choice.end(), static_cast<int>(*own_)) != choice.end();
}

FitAverages::Between FitAverages::between(const Variable& variable, double average) const {
  Between out{0, 0, 0};
  double low = 0, high = 1e9;
  for (size_t k = 0; k < candidates_.measured; ++k) {
    const double at = variable.averages[k];
    if (at == 0) continue;
    if (at <= average && at > low) low = at, out.below = k;
    if (at >= average && at < high) high = at, out.above = k;
  }
  if (low == 0) out.below = out.above;
  if (high == 1e9) out.above = out.below;
  if (out.below != out.above) out.part = (average - low) / (high - low);
  return out;
}

// What a site takes with an average that was not measured.
int64_t FitAverages::charged(const Variable& variable, double average) const {
  if (options_.limit != Limit::memory) {
    int64_t bytes = 0;
    for (Role role : variable.roles) {
      const Shape shape = shape_of(candidates_.spec, role);
      bytes += static_cast<int64_t>(average * static_cast<double>(shape.rows * shape.columns) / 8);
    }
    return 8 * bytes;
  }
  const Between at = between(variable, average);
  const auto low = static_cast<double>(variable.charged[at.below]);
  return std::llround(low + at.part * (static_cast<double>(variable.charged[at.above]) - low));
}

bool FitAverages::fits(double average, const std::vector<double>& least, int64_t limit) const {
  int64_t sum = 0;
  for (size_t i : space_.pools[0].variables) sum += charged(space_.variables[i], std::max(average, least[i]));
  return sum <= limit;
}

// By variable.
std::vector<double> FitAverages::least_averages() const {
  std::vector<double> out(space_.variables.size(), 0);
  for (size_t i : space_.pools[0].variables) {
    const Variable& variable = space_.variables[i];
    const auto open = static_cast<size_t>(
        std::find_if(variable.averages.begin(), variable.averages.end(), [](double a) { return a > 0; }) -
        variable.averages.begin());
    for (const SitePlan& site : candidates_.plans[open][static_cast<size_t>(variable.block)])
      if (site.site.roles == variable.roles)
        out[i] = least_average(site, candidates_.spec, most_kept(site, candidates_.spec));
  }
  return out;
}

// The largest average for all sites that is within the budget, in hundredths or just what was asked for.
std::optional<double> FitAverages::own_average(const CacheOption& cache) const {
  const std::vector<double> least = least_averages();
  const int64_t limit = budget_.limit_bits(space_, cache);
  if (options_.limit == Limit::bits && options_.bits <= kMostOwn && fits(options_.bits, least, limit))
    return options_.bits;
  int low = 99,
      high = static_cast<int>(100 * kMostOwn) + 1;  // hundredths: the greatest that fits, the least that does not
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (fits(middle / 100.0, least, limit) ? low : high) = middle;
  }
  return low < 100 ? std::nullopt : std::optional(low / 100.0);
}

Status FitAverages::add_own(const CacheOption& cache) {
  const Palette& palette = candidates_.palette;
  if (!palette.gives_averages()) return {};
  const std::optional<double> average = own_average(cache);
  if (!average) return {};
  own_ = static_cast<size_t>(std::find(palette.averages.begin(), palette.averages.end(), *average) -
                             palette.averages.begin());
  if (own_ < palette.averages.size()) return {};
  NIBBLE_DO(add(*average));
  own_is_added_ = true;
  losses_with_own_ = losses_;
  for (size_t i : space_.pools[0].variables) losses_with_own_[i].push_back(guess(i, *own_));
  return {};
}

Status FitAverages::add_guesses() {
  if (!candidates_.palette.gives_averages()) return {};
  const std::vector<double> measured = candidates_.palette.averages;
  const double most = *std::max_element(measured.begin(), measured.end());
  double least = most;
  for (const double average : measured) least = average > 0 ? std::min(least, average) : least;
  for (auto tenths = static_cast<int>(10 * least) + 1; tenths / 10.0 < most; ++tenths) {
    if (std::find(measured.begin(), measured.end(), tenths / 10.0) != measured.end()) continue;
    NIBBLE_DO(add(tenths / 10.0));
    for (size_t i : space_.pools[0].variables) losses_[i].push_back(guess(i, candidates_.palette.weights.size() - 1));
  }
  return {};
}

// One more format everywhere.
Status FitAverages::add(double average) {
  NIBBLE_DO(add_average(options_, average, candidates_));
  NIBBLE_DO(budget_.price_last());
  measuring_.add_last();
  space_.palette = candidates_.palette;
  return {};
}

// What a site takes with an average that was not measured, and as the result what it loses: the logarithm of the loss
// is nearly linear in the bits.
double FitAverages::guess(size_t i, size_t k) {
  Variable& variable = space_.variables[i];
  const double average = budget_.priced(k, variable.block, variable.roles[0]).average;
  const Between at = between(variable, average);
  int64_t stored = 0;
  for (Role role : variable.roles) {
    const auto resident = [&](size_t format) {
      return static_cast<double>(budget_.priced(format, variable.block, role).resident);
    };
    budget_.set_resident(k, variable.block, role,
                         std::llround(resident(at.below) + at.part * (resident(at.above) - resident(at.below))));
    stored += 8 * budget_.priced(k, variable.block, role).stored;
  }
  variable.bits.push_back(stored);
  variable.charged.push_back(charged(variable, average));
  variable.averages.push_back(average);
  const double below = std::log(std::max(losses_[i][at.below], 1e-12)),
               above = std::log(std::max(losses_[i][at.above], 1e-12));
  return std::exp(below + at.part * (above - below));
}

}  // namespace nibble::search
