// A folder that appears under its final name complete or not at all.
//
// The work happens in OUT.partial. finish() puts everything in it on disk, then renames it to OUT; a reader of OUT
// sees the old folder, or none, until that moment. An interrupted run leaves OUT.partial behind, to be resumed or
// thrown away by the next one. While the object lives it holds a lock on OUT.partial against other processes.
//
// With `force` the old OUT is renamed to OUT.replaced and removed after the new one is in place. Where the file system
// can exchange two names at once there is no moment without an OUT.
#pragma once

#include <cstdint>
#include <filesystem>

#include "core/result.h"

namespace nibble {

class OutputFolder {
 public:
  // Checks and prepares:
  // - OUT exists: `usage` without `force`; with it, only a folder that holds a model (config.json or a manifest) or
  //   nothing is ever replaced, so that a slip of the keyboard does not delete a home directory.
  // - OUT.partial exists: with `resume` it is kept, except for temporary files of interrupted writes; otherwise it is
  //   emptied, which discarded() reports.
  // - OUT.partial is being written by another process: `failure`.
  // - The parent does not exist or cannot be written: `io`.
  static Result<OutputFolder> create(const std::filesystem::path& out, bool force, bool resume);

  OutputFolder(OutputFolder&& other) noexcept;
  OutputFolder& operator=(OutputFolder&&) = delete;
  // Leaves OUT.partial for a later resume, unless nothing was written into it.
  ~OutputFolder();

  const std::filesystem::path& path() const { return partial_; }  // where to write
  const std::filesystem::path& final_path() const { return out_; }
  bool resumed() const { return resumed_; }      // files of an interrupted run are in path()
  bool discarded() const { return discarded_; }  // files of an interrupted run were there and are gone

  // A `resources` error when the file system has less than `bytes` and 5 % free.
  Status require_space(int64_t bytes) const;
  // Removes everything in path(): what an interrupted run left there is of no use. resumed() stays as it was.
  Status clear();
  // Once, after everything is written. On failure OUT is as it was and OUT.partial remains.
  Status finish();
  // Removes OUT.partial: for work that cannot be resumed.
  void discard();

 private:
  OutputFolder(std::filesystem::path out, std::filesystem::path partial, bool force, int lock)
      : out_(std::move(out)), partial_(std::move(partial)), force_(force), lock_(lock) {}

  std::filesystem::path out_, partial_;
  bool force_ = false, resumed_ = false, discarded_ = false;
  int lock_ = -1;  // descriptor of OUT.partial, with an flock; -1 when finished, discarded or moved from
};

}  // namespace nibble
