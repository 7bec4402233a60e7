// What models of a space are worth: measured once, looked up in the log after that.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/progress.h"
#include "search/fidelity.h"
#include "search/layers.h"
#include "search/log.h"
#include "search/variables.h"

namespace nibble::search {

// By variable and candidate: by how much the KL rises above the base's.
using Losses = std::vector<std::vector<double>>;

// By pool: bits, with what is fixed; nothing where there is no limit.
using Limits = std::vector<std::optional<int64_t>>;
Limits limits_of(const Space& space);
// The exact optimum of each pool. Its cheapest choice must be within the limit.
Choice best_choice(const Space& space, const Losses& losses, const Limits& limits);
double sum_of(const Losses& losses, const Choice& choice);

class Measurements {
 public:
  // All must outlive this; `log` has entered the space.
  Measurements(const Space& space, const Model& model, Layers& layers, Yardstick& yardstick, Log& log,
               ThreadPool& pool);

  // Blocks that are still to be run for the losses around the float model or a choice, and for one whole model; the
  // head counts as the blocks that have as many weights.
  double work_of_losses(const std::optional<Choice>& base = std::nullopt) const;
  double work_of_trial() const;
  void show(double work, const ProgressCallback& progress) { meter_.emplace(work, progress); }

  // `again`: a line in the log even if the study has such a trial.
  Result<Fidelity> trial(const Choice& choice, const std::string& study, bool again = false);
  // The float model with attention computed, and keys and values cached, in these formats, by block. `name`: in the
  // log.
  Result<Fidelity> attended(std::span<const AttentionFormats> attention, const std::string& name);
  // Around the float model, or around a choice (which was measured). Variables with one candidate have no loss. The
  // float model has no kernels for quantized inputs of float weights: there activations are tried with the weights of
  // the site in their widest format, against the same weights with float inputs.
  Result<Losses> losses(const std::optional<Choice>& base);

  int64_t measured() const { return measured_; }
  int64_t reused() const { return reused_; }

 private:
  struct Around;  // a base
  Status block_losses(const Around& around, int64_t block, const States& before, Losses& out);
  Result<Fidelity> single(const Around& around, size_t variable, int candidate, const States& before);
  // `channels`: how many of the variable's columns got how many bits, where they have their own.
  Result<Fidelity> run_single(const Around& around, const Variable& variable, int candidate, const States& before,
                              ChannelCounts& channels);
  bool is_original(const Variable& variable, int candidate) const;
  BlockSetting changed(const Around& around, const Variable& variable, int candidate) const;
  std::string format_of(const Variable& variable, int candidate) const;
  bool has_baseline(const Around& around, const Variable& variable);
  // What a single in the log is compared with.
  std::string base_of(const std::string& around, const Variable& variable) const;
  int last_block(const std::string& around) const;
  void told(double work, const std::string& what);

  const Space* space_;
  const Model* model_;
  Layers* layers_;
  Yardstick* yardstick_;
  Log* log_;
  ThreadPool* pool_;
  int carrier_ = kAsStored;  // the widest weights that are not floats
  std::optional<bool> carrier_runs_alone_;
  double head_ = 0;
  std::optional<ProgressMeter> meter_;
  int64_t measured_ = 0, reused_ = 0;
};

}  // namespace nibble::search
