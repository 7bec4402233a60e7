// Files: read-only maps and writes that survive a crash.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/result.h"

namespace nibble {

// A whole file, mapped read-only. A handle: the bytes live as long as one of its copies, or a borrowed part.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::filesystem::path& path);

  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }
  // Tells the kernel that these bytes of the map are not needed soon, so that they stop counting as resident.
  void release(std::span<const std::byte> part) const { release_pages(part); }
  // Tells the kernel that bytes are read here and there, so that it reads no others in advance.
  void expect_scattered_reads() const;
  // A hold on a part of the map, which is released when the last copy of the hold goes.
  std::shared_ptr<const std::byte> borrow(std::span<const std::byte> part) const;

  // The same for bytes of any map of a file, unchanged since it was mapped. They may be read again.
  static void release_pages(std::span<const std::byte> part);

 private:
  std::shared_ptr<const void> map_;  // unmaps
  std::span<const std::byte> bytes_;
};

// The whole file as text; refuses more than `limit` bytes.
Result<std::string> read_text(const std::filesystem::path& path, size_t limit = size_t{1} << 32);

// A file that is written beside its final name and appears under it only when commit() succeeds: the data is on
// disk (fsync) before the rename, the rename before commit() returns. Without commit() nothing is left behind. Until
// then its name is the final one and ".tmp" with a number that no other file has, whichever process or machine made it.
class DurableFile {
 public:
  // `usage` when something other than a regular file has this name. The target of a link is replaced, not the link.
  static Result<DurableFile> create(const std::filesystem::path& path);
  DurableFile(DurableFile&& other) noexcept;
  DurableFile& operator=(DurableFile&&) = delete;
  ~DurableFile();

  Status write(std::span<const std::byte> bytes);
  Status write(std::string_view text);
  Status commit();

 private:
  DurableFile(std::filesystem::path path, std::filesystem::path temporary, int descriptor)
      : path_(std::move(path)), temporary_(std::move(temporary)), descriptor_(descriptor) {}
  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

// Whether a result may be written to `path`: `io` when its folder does not exist, `usage` when a folder, a device or
// the like has that name already.
Status check_file_target(const std::filesystem::path& path);
// Whether a file begins with these bytes, or is empty, which is nobody's loss. False when it cannot be read.
bool begins_with(const std::filesystem::path& path, std::string_view beginning);

Status write_durably(const std::filesystem::path& path, std::string_view text);
// Makes renames and new entries in a folder durable.
Status sync_folder(const std::filesystem::path& folder);

// An Error for errno: ENOSPC, EDQUOT and ENOMEM are `resources`, everything else `io`.
tl::unexpected<Error> system_failure(int error_number, std::string_view action, const std::filesystem::path& path);

}  // namespace nibble
