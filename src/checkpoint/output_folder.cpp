#include "checkpoint/output_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "checkpoint/manifest.h"
#include "core/file.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {

fs::path with_suffix(fs::path path, const char* suffix) {
  path += suffix;
  return path;
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

// "a/b/" and "a/b" name the same folder; ".", ".." and "/" name none that could be created or replaced.
Result<fs::path> normalized(const fs::path& out) {
  fs::path path = out.lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename() || path.filename() == "." || path.filename() == "..")
    return fail(ErrorCode::usage, "\"{}\" cannot be an output folder: it has no name of its own", out.string());
  return path;
}

bool may_be_replaced(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return false;
  return fs::is_empty(folder, error) || fs::exists(folder / "config.json", error) ||
         fs::exists(folder / kManifestName, error);
}

Status check_target(const fs::path& out, bool force) {
  if (!is_there(out)) return {};
  if (!force) return fail(ErrorCode::usage, "{} exists; --force replaces it", out.string());
  if (!may_be_replaced(out))
    return fail(ErrorCode::usage, "{} exists and does not look like a model folder; --force will not replace it",
                out.string());
  return {};
}

bool same_folder(int descriptor, const fs::path& path) {
  struct stat opened {
  }, named{};
  return ::fstat(descriptor, &opened) == 0 && ::stat(path.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

// Creates the folder where it is missing and locks it. The owner of the lock may have renamed or removed the folder
// between our open and our lock: then we hold the wrong one, and start over.
Result<int> open_locked(const fs::path& partial) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (::mkdir(partial.c_str(), 0777) != 0 && errno != EEXIST) return system_failure(errno, "create", partial);
    const int descriptor = ::open(partial.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (descriptor < 0 && errno == ENOENT) continue;
    if (descriptor < 0) return system_failure(errno, "open", partial);
    // Other failures than "taken" come from file systems without locks: there the lock protects nobody.
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      ::close(descriptor);
      return fail(ErrorCode::failure, "another process is writing {}", partial.string());
    }
    if (same_folder(descriptor, partial)) return descriptor;
    ::close(descriptor);
  }
  return fail(ErrorCode::io, "cannot lock {}: it keeps disappearing", partial.string());
}

// "name.tmp1234", which DurableFile leaves when its process is killed.
bool is_temporary(const fs::path& path) {
  const std::string extension = path.extension().string();
  constexpr std::string_view kStart = ".tmp";
  return extension.size() > kStart.size() && extension.compare(0, kStart.size(), kStart) == 0 &&
         extension.find_first_not_of("0123456789", kStart.size()) == std::string::npos;
}

// Removes the entries of a folder that `matches` accepts.
template <class Matches>
Status remove_entries(const fs::path& folder, Matches matches) {
  std::error_code error;
  std::vector<fs::path> doomed;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (matches(it->path())) doomed.push_back(it->path());
  for (const fs::path& path : doomed)
    if (!error) fs::remove_all(path, error);
  if (error) return system_failure(error.value(), "clean up", folder);
  return {};
}

Status sync_file(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return system_failure(errno, "open", path);
  const int synced = ::fsync(descriptor);
  const int error_number = errno;
  ::close(descriptor);
  if (synced != 0 && error_number != EINVAL) return system_failure(error_number, "sync", path);
  return {};
}

// Everything below the folder, then the folder.
Status sync_tree(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->is_symlink()) continue;
    if (it->is_directory()) {
      NIBBLE_DO(sync_tree(it->path()));
    } else if (it->is_regular_file()) {
      NIBBLE_DO(sync_file(it->path()));
    }
  }
  if (error) return system_failure(error.value(), "list", folder);
  return sync_folder(folder);
}

int rename_flagged(const fs::path& from, const fs::path& to, unsigned flags) {
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags);
}

bool flags_unknown() { return errno == EINVAL || errno == ENOSYS || errno == ENOTSUP; }

// Fails where `out` exists: nothing is replaced by accident.
Status publish(const fs::path& partial, const fs::path& out) {
  if (rename_flagged(partial, out, RENAME_NOREPLACE) == 0) return {};
  if (!flags_unknown()) return system_failure(errno, "rename to", out);
  if (is_there(out)) return system_failure(EEXIST, "rename to", out);
  if (::rename(partial.c_str(), out.c_str()) != 0) return system_failure(errno, "rename to", out);
  return {};
}

// The new folder at `out`, the old one at `aside`. On failure the old one is back at `out`.
Status exchange(const fs::path& partial, const fs::path& out, const fs::path& aside) {
  if (rename_flagged(partial, out, RENAME_EXCHANGE) == 0) {
    if (::rename(partial.c_str(), aside.c_str()) != 0) return system_failure(errno, "rename to", aside);
    return {};
  }
  if (!flags_unknown()) return system_failure(errno, "rename to", out);
  if (::rename(out.c_str(), aside.c_str()) != 0) return system_failure(errno, "rename to", aside);
  if (::rename(partial.c_str(), out.c_str()) == 0) return {};
  const int error_number = errno;
  ::rename(aside.c_str(), out.c_str());
  return system_failure(error_number, "rename to", out);
}

}  // namespace

Result<OutputFolder> OutputFolder::create(const fs::path& out, bool force, bool resume) {
  NIBBLE_TRY(fs::path target, normalized(out));
  NIBBLE_DO(check_target(target, force));
  const fs::path partial = with_suffix(target, ".partial");
  NIBBLE_TRY(int lock, open_locked(partial));
  OutputFolder folder(target, partial, force, lock);
  if (resume) NIBBLE_DO(remove_entries(partial, is_temporary));
  std::error_code error;
  const bool leftover = !fs::is_empty(partial, error);
  if (error) return system_failure(error.value(), "list", partial);
  if (leftover && !resume) NIBBLE_DO(folder.clear());
  folder.resumed_ = leftover && resume;
  folder.discarded_ = leftover && !resume;
  // A folder that cannot be written is found out now and not after an hour of work.
  if (::faccessat(lock, ".", W_OK | X_OK, AT_EACCESS) != 0) return system_failure(errno, "write into", partial);
  return folder;
}

OutputFolder::OutputFolder(OutputFolder&& other) noexcept
    : out_(std::move(other.out_)),
      partial_(std::move(other.partial_)),
      force_(other.force_),
      resumed_(other.resumed_),
      discarded_(other.discarded_),
      lock_(std::exchange(other.lock_, -1)) {}

OutputFolder::~OutputFolder() {
  if (lock_ < 0) return;
  ::rmdir(partial_.c_str());  // succeeds only when it is empty
  ::close(lock_);
}

Status OutputFolder::require_space(int64_t bytes) const {
  struct statvfs info {};
  if (::statvfs(partial_.c_str(), &info) != 0) return system_failure(errno, "ask for the free space of", partial_);
  const double free = static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize);
  if (static_cast<double>(bytes) * 1.05 <= free) return {};
  return fail(ErrorCode::resources, "{}: about {:.1f} MB are needed, {:.1f} MB are free on its disk", out_.string(),
              static_cast<double>(bytes) * 1.05e-6, free * 1e-6);
}

Status OutputFolder::clear() {
  return remove_entries(partial_, [](const fs::path&) { return true; });
}

Status OutputFolder::finish() {
  NIBBLE_CHECK(lock_ >= 0);
  NIBBLE_DO(sync_tree(partial_));
  NIBBLE_DO(check_target(out_, force_));
  const fs::path aside = with_suffix(out_, ".replaced");
  const bool replaces = is_there(out_);
  std::error_code error;
  if (replaces) {
    fs::remove_all(aside, error);  // what an earlier run was killed while removing
    if (error) return system_failure(error.value(), "remove", aside);
    NIBBLE_DO(exchange(partial_, out_, aside));
  } else {
    NIBBLE_DO(publish(partial_, out_));
  }
  ::close(std::exchange(lock_, -1));
  NIBBLE_DO(sync_folder(parent_of(out_)));
  if (replaces) fs::remove_all(aside, error);
  if (error) return system_failure(error.value(), "remove the replaced", aside);
  return {};
}

void OutputFolder::discard() {
  if (lock_ < 0) return;
  std::error_code error;
  fs::remove_all(partial_, error);
  ::close(std::exchange(lock_, -1));
}

}  // namespace nibble
