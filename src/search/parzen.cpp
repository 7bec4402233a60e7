#include "search/parzen.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace nibble::search {
namespace {

double unit(Random& random) { return static_cast<double>(random.next() >> 11) * 0x1p-53; }

// The frequency of each value of one variable in some trials, the prior counted as `weight` trials.
std::vector<double> distribution(std::span<const ParzenTrial* const> trials, size_t variable, int size, double weight) {
  std::vector<double> p(static_cast<size_t>(size), weight / size);
  for (const ParzenTrial* trial : trials) p[static_cast<size_t>(trial->choice[variable])] += 1;
  const double sum = weight + static_cast<double>(trials.size());
  for (double& value : p) value /= sum;
  return p;
}

int draw(const std::vector<double>& p, Random& random) {
  double at = unit(random);
  for (size_t i = 0; i + 1 < p.size(); ++i) {
    if (at < p[i]) return static_cast<int>(i);
    at -= p[i];
  }
  return static_cast<int>(p.size()) - 1;
}

std::vector<const ParzenTrial*> best_first(std::span<const ParzenTrial> trials) {
  std::vector<const ParzenTrial*> order;
  for (const ParzenTrial& trial : trials) order.push_back(&trial);
  std::stable_sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->objective > b->objective; });
  return order;
}

}  // namespace

std::vector<int> suggest(std::span<const int> sizes, std::span<const ParzenTrial> trials, const ParzenOptions& options,
                         Random& random) {
  std::vector<int> out;
  if (static_cast<int>(trials.size()) < options.startup) {
    for (int size : sizes) out.push_back(static_cast<int>(random.below(static_cast<uint64_t>(size))));
    return out;
  }
  const std::vector<const ParzenTrial*> order = best_first(trials);
  const auto wanted = static_cast<size_t>(std::ceil(options.good * static_cast<double>(order.size())));
  const size_t good = std::min({std::max<size_t>(wanted, 1), static_cast<size_t>(options.most_good), order.size()});
  const std::span<const ParzenTrial* const> all(order);
  std::vector<std::vector<double>> l, gain;  // by variable and value: the density, and log l / g
  for (size_t variable = 0; variable < sizes.size(); ++variable) {
    l.push_back(distribution(all.first(good), variable, sizes[variable], options.prior));
    gain.push_back(distribution(all.subspan(good), variable, sizes[variable], options.prior));
    for (size_t k = 0; k < l.back().size(); ++k) gain.back()[k] = std::log(l.back()[k] / gain.back()[k]);
  }
  double most = 0;
  for (int i = 0; i < options.draws; ++i) {
    double sum = 0;
    std::vector<int> drawn;
    for (size_t variable = 0; variable < l.size(); ++variable) {
      drawn.push_back(draw(l[variable], random));
      sum += gain[variable][static_cast<size_t>(drawn.back())];
    }
    const bool tried = std::any_of(trials.begin(), trials.end(), [&](const auto& t) { return t.choice == drawn; });
    if (!out.empty() && (tried || sum <= most)) continue;
    most = tried ? -std::numeric_limits<double>::infinity() : sum;
    out = std::move(drawn);
  }
  return out;
}

}  // namespace nibble::search
