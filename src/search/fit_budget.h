// What every format costs a model, and what its budget leaves for the weights of the blocks.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "core/threads.h"
#include "search/fit.h"
#include "search/fit_candidates.h"
#include "search/footprint.h"
#include "search/log.h"

namespace nibble::search {

// A linear of the model in one format of the palette.
struct Priced {
  int64_t stored = 0, resident = 0;  // bytes
  int64_t tensors = 0;
  double average = 0;  // of the site, where columns have bits of their own
};

// How keys and values may be cached.
struct CacheOption {
  std::string name;
  std::vector<AttentionFormats> attention;  // by block
  int64_t bytes = 0;
  double loss = 0;  // mean KL, once it is measured
  bool plain() const;
};

class FitBudget {
 public:
  // The cost of all formats. Both must outlive this. `unsupported` for formats without a kernel on this machine.
  static Result<FitBudget> make(const FitOptions& options, const Candidates& candidates, ThreadPool& pool);
  // Of the format that was added last.
  Status price_last() { return price(priced_.size()); }
  // What columns in bits of their own take in memory depends on how many have how many: known once it was measured.
  Status price_measured(const Log& log, Space& space);

  // The model's linears with what they cost.
  Result<Space> make_space() const;
  const Priced& priced(size_t format, int64_t block, Role role) const {
    return priced_[format][static_cast<size_t>(block)][static_cast<size_t>(role)];
  }
  // Of an average that is guessed.
  void set_resident(size_t format, int64_t block, Role role, int64_t bytes) {
    priced_[format][static_cast<size_t>(block)][static_cast<size_t>(role)].resident = bytes;
  }
  const Beside& beside() const { return beside_; }
  std::vector<CacheOption>& caches() { return caches_; }
  const std::vector<CacheOption>& caches() const { return caches_; }
  const CacheOption& cache_named(const std::string& name) const;

  // Bits that the weights may take, and the least that they can do with.
  int64_t limit_bits(const Space& space, const CacheOption& cache) const;
  int64_t least_bits(const Space& space) const;
  // `usage`, naming the least with its parts.
  Status expect_possible(const Space& space) const;
  // What a choice takes in files and in memory.
  FitBytes bytes_of(const Space& space, const Choice& choice, const CacheOption& cache) const;

 private:
  FitBudget(const FitOptions& options, const Candidates& candidates, Isa isa, ThreadPool& pool)
      : options_(&options), candidates_(&candidates), isa_(isa), packing_(isa, pool) {}
  Status price(size_t format);
  Status read_caches();
  int64_t charged(const Priced& priced) const {
    return options_->limit == Limit::memory ? priced.resident : priced.stored;
  }
  int64_t fixed(const CacheOption& cache) const;
  int64_t most_tensors() const;

  const FitOptions* options_;
  const Candidates* candidates_;
  Isa isa_;
  Packing packing_;
  std::vector<std::vector<std::array<Priced, kRoles>>> priced_;  // by format, block and role
  Beside beside_;
  int64_t head_bytes_ = 0, workspace_ = 0;
  std::vector<CacheOption> caches_;
};

// A budget that everything is within.
inline constexpr int64_t kEndless = INT64_MAX / 16;  // bytes

}  // namespace nibble::search
