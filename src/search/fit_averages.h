// Averages of bits by channel between those that were measured: what a site takes and loses with them is guessed, so
// that a budget can be met more closely, and so that the recipe's own average for all sites is among the models
// compared.
#pragma once

#include <optional>
#include <vector>

#include "search/fit.h"
#include "search/fit_budget.h"
#include "search/fit_candidates.h"
#include "search/fit_measuring.h"

namespace nibble::search {

// Nothing is done where the palette has no averages.
class FitAverages {
 public:
  // All must outlive this: averages are added to them, with their losses to `losses`.
  FitAverages(const FitOptions& options, Candidates& candidates, FitBudget& budget, FitMeasuring& measuring,
              Space& space, Losses& losses)
      : options_(options),
        candidates_(candidates),
        budget_(budget),
        measuring_(measuring),
        space_(space),
        losses_(losses) {}

  // Of everything between the averages that were measured, in steps of a tenth.
  Status add_guesses();
  // The same average for all sites, as the recipe alone would have it in this budget: the fit must not be worse.
  Status add_own(const CacheOption& cache);

  // The format with the recipe's own average, if there is one within the budget; it may have been added, and is the
  // last one then.
  const std::optional<size_t>& own() const { return own_; }
  bool own_is_added() const { return own_is_added_; }
  bool uses_added(const Choice& choice) const;
  // With that of the recipe's own average, which an optimum is not looked for among.
  const Losses& all_losses() const { return own_is_added_ ? losses_with_own_ : losses_; }

 private:
  // The measured averages on both sides of another one, and how near it is to the second.
  struct Between {
    size_t below, above;
    double part;
  };
  Between between(const Variable& variable, double average) const;
  int64_t charged(const Variable& variable, double average) const;
  bool fits(double average, const std::vector<double>& least, int64_t limit) const;
  std::vector<double> least_averages() const;
  std::optional<double> own_average(const CacheOption& cache) const;
  Status add(double average);
  double guess(size_t variable, size_t format);

  const FitOptions& options_;
  Candidates& candidates_;
  FitBudget& budget_;
  FitMeasuring& measuring_;
  Space& space_;
  Losses& losses_;
  std::optional<size_t> own_;
  bool own_is_added_ = false;
  Losses losses_with_own_;
};

}  // namespace nibble::search
