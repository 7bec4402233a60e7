#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <random>

namespace nibble {
namespace fs = std::filesystem;

tl::unexpected<Error> system_failure(int error_number, std::string_view action, const fs::path& path) {
  bool resources = error_number == ENOSPC || error_number == EDQUOT || error_number == ENOMEM;
  return fail(resources ? ErrorCode::resources : ErrorCode::io, "cannot {} {}: {}", action, path.string(),
              std::strerror(error_number));
}

namespace {

// A rename must not take the place of a folder or a device.
Status expect_file_or_nothing(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return fail(ErrorCode::usage, "{} is a folder, not a file", path.string());
  if (fs::exists(path, ignored) && !fs::is_regular_file(path, ignored))
    return fail(ErrorCode::usage, "{} is no regular file: it is not replaced", path.string());
  return {};
}

}  // namespace

Status check_file_target(const fs::path& path) {
  std::error_code ignored;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (!fs::is_directory(folder, ignored))
    return fail(ErrorCode::io, "cannot write {}: the folder {} does not exist", path.string(), folder.string());
  return expect_file_or_nothing(path);
}

bool begins_with(const fs::path& path, std::string_view beginning) {
  std::string start(beginning.size(), '\0');
  std::ifstream stream(path, std::ios::binary);
  stream.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<size_t>(stream.gcount()));
  return start.empty() ? stream.eof() : start == beginning;
}

Result<MappedFile> MappedFile::open(const fs::path& path) {
  // Non-blocking, because opening a named pipe would wait for a writer; regular files ignore it.
  int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return system_failure(errno, "open", path);
  struct stat info {};
  if (::fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
    int error_number = S_ISREG(info.st_mode) ? errno : EINVAL;
    ::close(descriptor);
    return system_failure(error_number, "map (not a regular file?)", path);
  }
  MappedFile file;
  const auto size = static_cast<size_t>(info.st_size);
  void* const data = size > 0 ? ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0) : nullptr;
  const int error_number = errno;
  ::close(descriptor);
  if (data == MAP_FAILED) return system_failure(error_number, "map", path);
  if (data == nullptr) return file;
  file.map_ = std::shared_ptr<const void>(data, [data, size](const void*) { ::munmap(data, size); });
  file.bytes_ = {static_cast<const std::byte*>(data), size};
  return file;
}

void MappedFile::expect_scattered_reads() const {
  // A hint: what becomes of it changes no result.
  if (!bytes_.empty()) ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_RANDOM);
}

std::shared_ptr<const std::byte> MappedFile::borrow(std::span<const std::byte> part) const {
  return {part.data(), [map = map_, part](const std::byte*) { release_pages(part); }};
}

void MappedFile::release_pages(std::span<const std::byte> part) {
  // Whole pages inside the part only: its edges may be shared with a neighbour.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  uintptr_t begin = (reinterpret_cast<uintptr_t>(part.data()) + page - 1) / page * page;
  uintptr_t end = (reinterpret_cast<uintptr_t>(part.data()) + part.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Result<std::string> read_text(const fs::path& path, size_t limit) {
  NIBBLE_TRY(MappedFile file, MappedFile::open(path));
  if (file.text().size() > limit)
    return fail(ErrorCode::corrupt, "{} has {} bytes, more than the {} allowed for such a file", path.string(),
                file.text().size(), limit);
  return std::string(file.text());
}

Result<DurableFile> DurableFile::create(const fs::path& name) {
  NIBBLE_DO(expect_file_or_nothing(name));
  std::error_code ignored;
  const fs::path path =
      fs::is_symlink(name, ignored) && fs::exists(name, ignored) ? fs::canonical(name, ignored) : name;
  // Not the process's number, which another container may have too. Names that are taken are not opened.
  constexpr int kTries = 100;
  std::random_device number;
  fs::path temporary;
  int descriptor = -1;
  for (int i = 0; i < kTries && descriptor < 0; ++i) {
    temporary = path;
    temporary += ".tmp" + std::to_string(number());
    descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor < 0 && errno != EEXIST) break;
  }
  if (descriptor < 0) return system_failure(errno, "create", temporary);
  return DurableFile(path, temporary, descriptor);
}

DurableFile::DurableFile(DurableFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

DurableFile::~DurableFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

Status DurableFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return system_failure(errno, "write", temporary_);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

Status DurableFile::write(std::string_view text) { return write(std::as_bytes(std::span(text))); }

Status DurableFile::commit() {
  if (::fsync(descriptor_) != 0) return system_failure(errno, "sync", temporary_);
  int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    int error_number = errno;
    ::unlink(temporary_.c_str());
    return system_failure(error_number, "rename to", path_);
  }
  return sync_folder(path_.parent_path());
}

Status write_durably(const fs::path& path, std::string_view text) {
  NIBBLE_TRY(DurableFile file, DurableFile::create(path));
  NIBBLE_DO(file.write(text));
  return file.commit();
}

Status sync_folder(const fs::path& folder) {
  const fs::path& name = folder.empty() ? fs::path(".") : folder;
  int descriptor = ::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return system_failure(errno, "open", name);
  int synced = ::fsync(descriptor);
  int error_number = errno;
  ::close(descriptor);
  // Some file systems cannot sync folders; that is not the user's problem.
  if (synced != 0 && error_number != EINVAL) return system_failure(error_number, "sync", name);
  return {};
}

}  // namespace nibble
