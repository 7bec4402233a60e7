#include "core/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "core/testing.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::entries_in;
using testing::expect_error;
using testing::expect_ok;
using testing::get;
using testing::put;
using testing::TemporaryFolder;

// From now on, what is written to the one file of the folder goes to a disk that is full.
void fill_the_disk_of(const fs::path& folder) {
  const fs::path written = fs::directory_iterator(folder)->path();
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    if (fs::read_symlink(entry.path(), ignored) != written) continue;
    const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
    EXPECT_GE(::dup2(full, std::stoi(entry.path().filename())), 0);
    ::close(full);
    return;
  }
  ADD_FAILURE() << written << " is not open";
}

TEST(MappedFile, MapsTheWholeFile) {
  TemporaryFolder folder;
  put(folder / "a", "hello");
  auto file = MappedFile::open(folder / "a");
  expect_ok(file);
  EXPECT_EQ(file->text(), "hello");
  EXPECT_EQ(file->bytes().size(), 5u);
}

TEST(MappedFile, AnEmptyFileIsFine) {
  TemporaryFolder folder;
  put(folder / "a", "");
  auto file = MappedFile::open(folder / "a");
  expect_ok(file);
  EXPECT_TRUE(file->bytes().empty());
}

TEST(MappedFile, MovesKeepTheBytes) {
  TemporaryFolder folder;
  put(folder / "a", "hello");
  put(folder / "b", "other");
  MappedFile a = *MappedFile::open(folder / "a");
  const std::byte* data = a.bytes().data();
  MappedFile moved = std::move(a);
  EXPECT_EQ(moved.bytes().data(), data);
  MappedFile other = *MappedFile::open(folder / "b");
  other = std::move(moved);
  EXPECT_EQ(other.text(), "hello");
}

TEST(MappedFile, ReleasedBytesCanBeReadAgain) {
  TemporaryFolder folder;
  std::string text(100'000, 'x');
  text[50'000] = 'y';
  put(folder / "a", text);
  auto file = MappedFile::open(folder / "a");
  expect_ok(file);
  EXPECT_EQ(file->text()[50'000], 'y');
  file->release(file->bytes());
  file->release(file->bytes().subspan(1, 3));
  file->release({});
  EXPECT_EQ(file->text(), text);
}

TEST(MappedFile, RefusesWhatIsNotAFile) {
  TemporaryFolder folder;
  expect_error(MappedFile::open(folder / "absent"), ErrorCode::io, "absent", "No such file");
  expect_error(MappedFile::open(folder.path()), ErrorCode::io, "not a regular file");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error(MappedFile::open(folder / "pipe"), ErrorCode::io, "not a regular file");
  expect_error(MappedFile::open("/dev/zero"), ErrorCode::io, "not a regular file");
}

TEST(ReadText, ReadsUpToTheLimit) {
  TemporaryFolder folder;
  put(folder / "a", "12345");
  EXPECT_EQ(read_text(folder / "a", 5).value(), "12345");
  expect_error(read_text(folder / "a", 4), ErrorCode::corrupt, "5 bytes", "the 4 allowed");
}

TEST(DurableFile, AppearsOnlyAtCommit) {
  TemporaryFolder folder;
  auto file = DurableFile::create(folder / "a");
  expect_ok(file);
  expect_ok(file->write("one "));
  expect_ok(file->write(std::as_bytes(std::span("two", 3))));
  EXPECT_FALSE(fs::exists(folder / "a"));
  expect_ok(file->commit());
  EXPECT_EQ(get(folder / "a"), "one two");
  EXPECT_EQ(entries_in(folder.path()), 1);
}

// As two containers may, whose processes have the same number.
TEST(DurableFile, WritersOfOneNameDoNotShareAFile) {
  TemporaryFolder folder;
  auto first = DurableFile::create(folder / "a"), second = DurableFile::create(folder / "a");
  expect_ok(first);
  expect_ok(second);
  EXPECT_EQ(entries_in(folder.path()), 2);
  expect_ok(first->write("the first, which is longer"));
  expect_ok(second->write("the second"));
  expect_ok(first->commit());
  EXPECT_EQ(get(folder / "a"), "the first, which is longer");
  expect_ok(second->commit());
  EXPECT_EQ(get(folder / "a"), "the second");
  EXPECT_EQ(entries_in(folder.path()), 1);
}

TEST(DurableFile, HasTheModeThatTheProcessGivesItsFiles) {
  TemporaryFolder folder;
  const mode_t before = ::umask(027);
  expect_ok(write_durably(folder / "a", "x"));
  ::umask(before);
  EXPECT_EQ(fs::status(folder / "a").permissions(), static_cast<fs::perms>(0640));
}

TEST(DurableFile, LeavesTheOldFileUntilCommit) {
  TemporaryFolder folder;
  put(folder / "a", "old");
  {
    auto file = DurableFile::create(folder / "a");
    expect_ok(file);
    expect_ok(file->write("new"));
    EXPECT_EQ(get(folder / "a"), "old");
  }
  EXPECT_EQ(get(folder / "a"), "old") << "dropped without commit";
  EXPECT_EQ(entries_in(folder.path()), 1) << "nothing else is left behind";
  expect_ok(write_durably(folder / "a", "new"));
  EXPECT_EQ(get(folder / "a"), "new");
}

TEST(DurableFile, TakesNoPlaceButAFiles) {
  TemporaryFolder folder;
  fs::create_directory(folder / "sub");
  expect_error(DurableFile::create(folder / "sub"), ErrorCode::usage, "is a folder, not a file");
  expect_error(DurableFile::create("/dev/null"), ErrorCode::usage, "/dev/null is no regular file");
  put(folder / "target", "old");
  fs::create_symlink(folder / "target", folder / "link");
  expect_ok(write_durably(folder / "link", "new"));
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(get(folder / "target"), "new");
}

TEST(DurableFile, AMovedFromFileDoesNothing) {
  TemporaryFolder folder;
  std::optional<DurableFile> first(*DurableFile::create(folder / "a"));
  DurableFile second(std::move(*first));
  first.reset();
  expect_ok(second.write("x"));
  expect_ok(second.commit());
  EXPECT_EQ(get(folder / "a"), "x");
}

TEST(DurableFile, AnOpenReaderKeepsTheOldContents) {
  TemporaryFolder folder;
  put(folder / "a", "old contents");
  auto reader = MappedFile::open(folder / "a");
  expect_ok(reader);
  expect_ok(write_durably(folder / "a", "new"));
  EXPECT_EQ(reader->text(), "old contents");
}

TEST(DurableFile, AFullDiskIsAResourceErrorAndLeavesNothing) {
  TemporaryFolder folder;
  auto file = DurableFile::create(folder / "a");
  expect_ok(file);
  fill_the_disk_of(fs::canonical(folder.path()));
  expect_error(file->write("x"), ErrorCode::resources, "cannot write", "No space left");
  { DurableFile dropped(std::move(*file)); }
  EXPECT_EQ(entries_in(folder.path()), 0);
}

TEST(DurableFile, RefusesAnUnusablePlace) {
  TemporaryFolder folder;
  put(folder / "file", "x");
  expect_error(write_durably(folder / "absent" / "a", "x"), ErrorCode::io, "cannot create", "No such file");
  expect_error(write_durably(folder / "file" / "a", "x"), ErrorCode::io, "Not a directory");
  fs::create_directory(folder / "taken");
  put(folder / "taken" / "inside", "x");
  expect_error(write_durably(folder / "taken", "x"), ErrorCode::usage, "is a folder, not a file");
  EXPECT_EQ(entries_in(folder.path()), 2) << "the temporary file is gone";
}

TEST(DurableFile, KilledBeforeCommitLeavesTheOldFile) {
  TemporaryFolder folder;
  put(folder / "a", "old");
  const pid_t child = ::fork();
  if (child == 0) {
    auto file = DurableFile::create(folder / "a");
    (void)file->write("new");
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(get(folder / "a"), "old");
}

TEST(SystemFailure, SortsErrnoIntoExitCodes) {
  for (int number : {ENOSPC, EDQUOT, ENOMEM})
    EXPECT_EQ(system_failure(number, "write", "x").value().code, ErrorCode::resources) << number;
  for (int number : {EACCES, EROFS, EIO, ENOENT, EPERM})
    EXPECT_EQ(system_failure(number, "write", "x").value().code, ErrorCode::io) << number;
}

TEST(SyncFolder, NeedsAFolder) {
  TemporaryFolder folder;
  expect_ok(sync_folder(folder.path()));
  expect_ok(sync_folder(""));
  expect_error(sync_folder(folder / "absent"), ErrorCode::io, "absent");
}

TEST(Target, IsAFileInAFolderThatExists) {
  const testing::TemporaryFolder folder;
  testing::put(folder / "file", "text");
  testing::expect_ok(check_file_target(folder / "file"));
  testing::expect_ok(check_file_target(folder / "new"));
  testing::expect_ok(check_file_target("new"));
  testing::expect_error(check_file_target(folder / "none" / "new"), ErrorCode::io, "none/new", "does not exist");
  testing::expect_error(check_file_target(folder / "file" / "new"), ErrorCode::io, "file/new");
  testing::expect_error(check_file_target(folder.path()), ErrorCode::usage, "is a folder");
  testing::expect_error(check_file_target("/dev/null"), ErrorCode::usage, "/dev/null is no regular file");
}

TEST(BeginsWith, ComparesTheFirstBytes) {
  const testing::TemporaryFolder folder;
  testing::put(folder / "file", "text");
  testing::put(folder / "empty", "");
  EXPECT_TRUE(begins_with(folder / "file", "te"));
  EXPECT_TRUE(begins_with(folder / "file", "text"));
  EXPECT_FALSE(begins_with(folder / "file", "text and more"));
  EXPECT_FALSE(begins_with(folder / "file", "ex"));
  EXPECT_TRUE(begins_with(folder / "empty", "ex"));
  EXPECT_FALSE(begins_with(folder / "none", "ex"));
  EXPECT_FALSE(begins_with(folder.path(), "ex"));
}

}  // namespace
}  // namespace nibble
