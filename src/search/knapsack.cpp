#include "search/knapsack.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nibble::search {
namespace {

constexpr double kRounding = 1e-12;  // relative; of sums of losses

// An option that no other of its class beats in cost and loss.
struct Kept {
  int64_t cost;
  double loss;
  int number;  // in the class
};

// Ascending cost, descending loss.
std::vector<Kept> without_dominated(const OptionClass& options) {
  std::vector<Kept> all;
  for (size_t i = 0; i < options.size(); ++i) all.push_back({options[i].cost, options[i].loss, static_cast<int>(i)});
  std::stable_sort(all.begin(), all.end(),
                   [](const Kept& a, const Kept& b) { return a.cost != b.cost ? a.cost < b.cost : a.loss < b.loss; });
  std::vector<Kept> out;
  for (const Kept& option : all)
    if (out.empty() || option.loss < out.back().loss) out.push_back(option);
  return out;
}

double slope(const Kept& a, const Kept& b) { return (a.loss - b.loss) / static_cast<double>(b.cost - a.cost); }

// The options on the lower convex hull: each step to the next gains less per cost than the one before.
std::vector<Kept> hull_of(const std::vector<Kept>& options) {
  std::vector<Kept> hull;
  for (const Kept& option : options) {
    while (hull.size() > 1 && slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), option)) hull.pop_back();
    hull.push_back(option);
  }
  return hull;
}

// A pair of the dynamic program, and where it came from.
struct State {
  int64_t cost = 0;
  double loss = 0;
  int32_t before = 0;  // in the list of the class before
  int32_t option = 0;  // in the class's list without dominated ones
};

class Solver {
 public:
  Solver(std::span<const OptionClass> classes, int64_t capacity) : capacity_(capacity) {
    for (const OptionClass& options : classes) classes_.push_back(without_dominated(options));
  }

  std::vector<int> run() {
    relax();
    prepare_bounds();
    return numbers(search());
  }

 private:
  // The continuous solution: from the cheapest options upward, best gain per cost first. `price_` is the gain per cost
  // where the capacity ends. Steps that still fit after that make the first solution.
  void relax() {
    struct Step {
      double gain;
      size_t of;
      int64_t cost;
      Kept to;
    };
    std::vector<Step> steps;
    int64_t room = capacity_;
    for (size_t i = 0; i < classes_.size(); ++i) {
      const std::vector<Kept> hull = hull_of(classes_[i]);
      for (size_t k = 1; k < hull.size(); ++k)
        steps.push_back({slope(hull[k - 1], hull[k]), i, hull[k].cost - hull[k - 1].cost, hull[k]});
      room -= hull[0].cost;
      known_.push_back(hull[0]);
    }
    std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.gain > b.gain; });
    std::vector<bool> ended(classes_.size());
    bool full = false;
    for (const Step& step : steps) {
      if (!full && step.cost > room) price_ = step.gain;
      full = full || step.cost > room;
      if (ended[step.of] || step.cost > room) {
        ended[step.of] = true;
        continue;
      }
      room -= step.cost;
      known_[step.of] = step.to;
    }
    fill(room);
  }

  // Any option that fits what is left, the best first.
  void fill(int64_t room) {
    for (size_t i = 0; i < classes_.size(); ++i)
      for (const Kept& option : classes_[i])
        if (option.loss < known_[i].loss && option.cost - known_[i].cost <= room) {
          room -= option.cost - known_[i].cost;
          known_[i] = option;
        }
    known_loss_ = 0;
    for (const Kept& option : known_) known_loss_ += option.loss;
  }

  // Of the classes from i on: the least cost, and the least of loss + price * cost.
  void prepare_bounds() {
    least_.assign(classes_.size() + 1, 0);
    priced_.assign(classes_.size() + 1, 0);
    double sum = std::fabs(known_loss_) + price_ * static_cast<double>(capacity_);
    for (size_t i = classes_.size(); i-- > 0;) {
      double best = std::numeric_limits<double>::infinity();
      for (const Kept& option : classes_[i])
        best = std::min(best, option.loss + price_ * static_cast<double>(option.cost));
      least_[i] = least_[i + 1] + classes_[i][0].cost;
      priced_[i] = priced_[i + 1] + best;
      sum += std::fabs(best);
    }
    margin_ = kRounding * sum;
  }

  // A state before class i that can still lead to a solution as good as the known one.
  bool hopeful(const State& state, size_t i) const {
    const int64_t room = capacity_ - state.cost;
    return room >= least_[i] && state.loss + priced_[i] - price_ * static_cast<double>(room) <= known_loss_ + margin_;
  }

  // Merges two lists of ascending cost into one without dominated states.
  static std::vector<State> merged(const std::vector<State>& a, const std::vector<State>& b) {
    std::vector<State> all(a.size() + b.size()), out;
    std::merge(a.begin(), a.end(), b.begin(), b.end(), all.begin(),
               [](const State& x, const State& y) { return x.cost != y.cost ? x.cost < y.cost : x.loss < y.loss; });
    for (const State& state : all)
      if (out.empty() || state.loss < out.back().loss) out.push_back(state);
    return out;
  }

  // By class, the number of the option in its list.
  std::vector<int32_t> search() const {
    std::vector<std::vector<State>> lists = {{State()}};
    for (size_t i = 0; i < classes_.size(); ++i) {
      std::vector<State> next;
      for (size_t k = 0; k < classes_[i].size(); ++k) {
        std::vector<State> moved;
        for (size_t s = 0; s < lists[i].size(); ++s) {
          const State state{lists[i][s].cost + classes_[i][k].cost, lists[i][s].loss + classes_[i][k].loss,
                            static_cast<int32_t>(s), static_cast<int32_t>(k)};
          if (hopeful(state, i + 1)) moved.push_back(state);
        }
        next = merged(next, moved);
      }
      lists.push_back(std::move(next));
    }
    std::vector<int32_t> out(classes_.size());
    // The last list descends in loss: its end is the best. The known solution is never pruned, so there is one.
    size_t at = lists.back().size() - 1;
    for (size_t i = classes_.size(); i-- > 0;) {
      const State& state = lists[i + 1][at];
      out[i] = state.option;
      at = static_cast<size_t>(state.before);
    }
    return out;
  }

  std::vector<int> numbers(const std::vector<int32_t>& kept) const {
    std::vector<int> out;
    for (size_t i = 0; i < kept.size(); ++i) out.push_back(classes_[i][static_cast<size_t>(kept[i])].number);
    return out;
  }

  int64_t capacity_;
  std::vector<std::vector<Kept>> classes_;
  double price_ = 0;  // loss that a unit of cost is worth
  std::vector<Kept> known_;
  double known_loss_ = 0, margin_ = 0;
  std::vector<int64_t> least_;
  std::vector<double> priced_;
};

}  // namespace

int64_t least_cost(std::span<const OptionClass> classes) {
  int64_t sum = 0;
  for (const OptionClass& options : classes)
    sum += std::min_element(options.begin(), options.end(), [](const Option& a, const Option& b) {
             return a.cost < b.cost;
           })->cost;
  return sum;
}

std::optional<std::vector<int>> solve_knapsack(std::span<const OptionClass> classes, int64_t capacity) {
  if (least_cost(classes) > capacity) return std::nullopt;
  return Solver(classes, capacity).run();
}

}  // namespace nibble::search
