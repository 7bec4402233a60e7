// What formats do to a model, measured once and kept in a log: linears one by one, caches, and whole models.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/threads.h"
#include "search/fit.h"
#include "search/fit_budget.h"
#include "search/fit_candidates.h"
#include "search/log.h"
#include "search/measurements.h"

namespace nibble::search {

// The text that formats are measured on: as the options say, or else written by the model.
Result<Samples> text_of(const FitOptions& options, const Model& model, ThreadPool& pool);

// What statistics are taken of, where some step reads any, and what is measured on, where the model does not write it.
struct FitTexts {
  std::optional<Samples> calibration, measured;
};

class FitMeasuring {
 public:
  // Opens the log that fits model, texts and recipe. All must outlive this; what was measured, and what was in the log,
  // is counted in `report`. `corrupt`: a damaged log.
  static Result<FitMeasuring> open(const FitOptions& options, const Candidates& candidates, const FitBudget& budget,
                                   FitReport& report, ThreadPool& pool);
  FitMeasuring(FitMeasuring&&) noexcept;
  ~FitMeasuring();

  // Every linear alone, in every format, and every cache.
  Result<Losses> singles(const Space& space, std::vector<CacheOption>& caches);
  // Around a choice that was measured.
  Result<Losses> losses_around(const Space& space, const Choice& choice);
  // A whole model; nothing when it is unknown and not to be measured.
  Result<std::optional<Fidelity>> trial(const Space& space, const Choice& choice, const std::string& study);

  // One more format, which the candidates have as their last by now.
  void add_last();
  const Log& log() const { return log_; }

 private:
  struct Engine;
  FitMeasuring(const FitOptions& options, const Candidates& candidates, const FitBudget& budget, FitReport& report,
               FitTexts texts, Log log, ThreadPool& pool);
  int64_t bytes() const;
  Status start();
  std::optional<Losses> losses_in_log(const Space& space) const;
  Result<Measurements> measurements(const Space& space);
  void count(const Measurements& done);

  const FitOptions* options_;
  const Candidates* candidates_;
  const FitBudget* budget_;
  FitReport* report_;
  ThreadPool* pool_;
  FitTexts texts_;
  Log log_;
  std::unique_ptr<Engine> engine_;  // only when something is not in the log
};

}  // namespace nibble::search
