// What a search has measured, one JSON object a line, so that an interrupted one goes on and a later one with another
// budget need not measure again.
//
//   {"nibble_search": 1, "model": NAME, "samples", "length", "tokens": SHA-256, "fingerprint": SHA-256, "steps": [...]}
//   {"space": ID, "weights": [FORMAT ...], "activations": [FORMAT ...], "attention": [FORMAT ...], "variables": [NAME
//    ...], "computed": [...]}                                  "attention" where it is chosen; "computed", by block,
//                                                              where it is not, but in other formats than f32
//   {"single": NAME, "format": FORMAT, "base": TEXT, "kl", "nll", "channels": [how many of 1, 2 .. 8 bits]}
//                                                              "channels" where they have bits of their own
//   {"trial": N, "space": ID, "study": TEXT, "choice": [number of the format ...], "bits", "kl", "nll"}
//
// The first line says of what; `fingerprint` is of the float model's own predictions (fidelity.h). A fit (fit.h) has
// "measurement", "model", "files", "recipe", "calibration" and "text" there, which are known before the model is
// loaded; the single "attention" is a whole model with another KV cache. A single is the base
// ("" for the float model) with one variable changed; a trial is a whole model. Each line is written at once: a last
// one without its end is what an interruption left, and is cut off.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "search/fidelity.h"
#include "search/variables.h"

namespace nibble::search {

// A name for the variables and candidates of a space: choices of equal spaces mean the same.
std::string id_of(const Space& space);

// How many channels of a site have 1, 2 .. 8 bits; empty where the format says it.
using ChannelCounts = std::vector<int64_t>;

struct LoggedTrial {
  std::string study;  // "uniform", "knapsack", or what decides a TPE run
  Choice choice;
  Fidelity measured;
};

class Log {
 public:
  // `path` empty: nothing is written. `header`: the first line. Where the file exists, with `resume` it is read and
  // continued (`corrupt` when it is no such log, is damaged, or its header is another); with `force` a log, and nothing
  // else, is replaced; otherwise `usage`.
  static Result<Log> open(const std::filesystem::path& path, const Json& header, bool resume, bool force);
  // Whether open() would refuse a file without looking into its header: to be asked before the work starts.
  static Status check(const std::filesystem::path& path, bool resume, bool force);
  Log(Log&&) noexcept;
  Log& operator=(Log&&) = delete;
  ~Log();

  // The space that trials are of from now on.
  Status enter(const Space& space);

  std::optional<Fidelity> single(const std::string& base, const std::string& variable, const std::string& format) const;
  Status add_single(const std::string& base, const std::string& variable, const std::string& format,
                    const Fidelity& measured, const ChannelCounts& channels = {});
  // Of a single that was added with them; else empty.
  ChannelCounts channels(const std::string& base, const std::string& variable, const std::string& format) const;
  // Of the space entered.
  std::optional<Fidelity> trial(const Choice& choice) const;
  const std::vector<LoggedTrial>& trials() const { return trials_[space_]; }
  Status add_trial(const LoggedTrial& trial, double bits);

 private:
  Log() = default;
  Status read(const Json& header);
  Status take(const Json& line, const std::string& where);
  Status write(const Json& line);

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::string space_;
  std::map<std::string, Fidelity> singles_;
  std::map<std::string, ChannelCounts> channels_;
  mutable std::map<std::string, std::vector<LoggedTrial>> trials_;  // by space
};

}  // namespace nibble::search
