#include "checkpoint/output_folder.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

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

class OutputFolderTest : public ::testing::Test {
 protected:
  Result<OutputFolder> create(bool force = false, bool resume = false) {
    return OutputFolder::create(out_, force, resume);
  }
  void make_old_model() {
    fs::create_directory(out_);
    put(out_ / "config.json", "old");
    put(out_ / "only-old", "x");
  }
  // A run that is killed in the middle.
  void interrupted_run() {
    const pid_t child = ::fork();
    if (child == 0) {
      auto folder = create();
      put(folder->path() / "block0", "done");
      put(folder->path() / "block1.tmp123", "half");
      ::kill(::getpid(), SIGKILL);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    ASSERT_TRUE(fs::exists(partial_));
  }
  TemporaryFolder folder_;
  fs::path out_ = folder_ / "out", partial_ = folder_ / "out.partial";
};

TEST_F(OutputFolderTest, AppearsOnlyWhenFinished) {
  auto folder = create();
  expect_ok(folder);
  EXPECT_EQ(folder->path(), partial_);
  EXPECT_EQ(folder->final_path(), out_);
  EXPECT_FALSE(folder->resumed());
  EXPECT_FALSE(folder->discarded());
  put(folder->path() / "config.json", "{}");
  fs::create_directory(folder->path() / "sub");
  put(folder->path() / "sub" / "deep", "x");
  EXPECT_FALSE(fs::exists(out_));
  expect_ok(folder->finish());
  EXPECT_FALSE(fs::exists(partial_));
  EXPECT_EQ(get(out_ / "config.json"), "{}");
  EXPECT_EQ(get(out_ / "sub" / "deep"), "x");
  EXPECT_EQ(entries_in(folder_.path()), 1);
}

TEST_F(OutputFolderTest, AnExistingOutputNeedsForce) {
  make_old_model();
  expect_error(create(), ErrorCode::usage, out_.string(), "exists", "--force");
  expect_error(create(false, true), ErrorCode::usage, "--force");
  EXPECT_FALSE(fs::exists(partial_)) << "a refusal leaves nothing";
  put(folder_ / "file", "x");
  expect_error(OutputFolder::create(folder_ / "file", false, false), ErrorCode::usage, "exists");
}

TEST_F(OutputFolderTest, ForceReplacesAtTheEnd) {
  make_old_model();
  auto folder = create(true);
  expect_ok(folder);
  put(folder->path() / "config.json", "new");
  EXPECT_EQ(get(out_ / "config.json"), "old");
  expect_ok(folder->finish());
  EXPECT_EQ(get(out_ / "config.json"), "new");
  EXPECT_FALSE(fs::exists(out_ / "only-old"));
  EXPECT_EQ(entries_in(folder_.path()), 1) << "neither the partial nor the replaced folder is left";
}

TEST_F(OutputFolderTest, ForceClearsWhatAKilledReplacementLeft) {
  make_old_model();
  fs::create_directory(folder_ / "out.replaced");
  put(folder_ / "out.replaced" / "x", "x");
  auto folder = create(true);
  expect_ok(folder);
  put(folder->path() / "config.json", "new");
  expect_ok(folder->finish());
  EXPECT_EQ(entries_in(folder_.path()), 1);
}

TEST_F(OutputFolderTest, ForceReplacesOnlyModelFolders) {
  fs::create_directory(out_);
  expect_ok(create(true));  // empty
  put(out_ / "thesis.tex", "years of work");
  expect_error(create(true), ErrorCode::usage, "does not look like a model folder");
  put(folder_ / "file", "x");
  expect_error(OutputFolder::create(folder_ / "file", true, false), ErrorCode::usage, "does not look like");
  put(out_ / "config.json", "{}");
  expect_ok(create(true));
}

TEST_F(OutputFolderTest, ForceWithoutAnOldOutputIsFine) {
  auto folder = create(true);
  expect_ok(folder);
  put(folder->path() / "a", "x");
  expect_ok(folder->finish());
  EXPECT_EQ(get(out_ / "a"), "x");
}

TEST_F(OutputFolderTest, AnOutputThatAppearsMeanwhileIsNotReplaced) {
  auto folder = create();
  expect_ok(folder);
  put(folder->path() / "config.json", "mine");
  make_old_model();
  expect_error(folder->finish(), ErrorCode::usage, "exists");
  EXPECT_EQ(get(out_ / "config.json"), "old");
  EXPECT_EQ(get(partial_ / "config.json"), "mine");
}

TEST_F(OutputFolderTest, ResumeKeepsFinishedFilesOnly) {
  interrupted_run();
  auto folder = create(false, true);
  expect_ok(folder);
  EXPECT_TRUE(folder->resumed());
  EXPECT_FALSE(folder->discarded());
  EXPECT_EQ(get(partial_ / "block0"), "done");
  EXPECT_FALSE(fs::exists(partial_ / "block1.tmp123")) << "half-written files are removed";
  expect_ok(folder->finish());
  EXPECT_EQ(entries_in(out_), 1);
}

TEST_F(OutputFolderTest, WithoutResumeTheLeftoverIsThrownAwayAndReported) {
  interrupted_run();
  auto folder = create();
  expect_ok(folder);
  EXPECT_TRUE(folder->discarded());
  EXPECT_FALSE(folder->resumed());
  EXPECT_EQ(entries_in(partial_), 0);
}

TEST_F(OutputFolderTest, ResumeWithNothingToResumeStartsAfresh) {
  auto folder = create(false, true);
  expect_ok(folder);
  EXPECT_FALSE(folder->resumed());
}

TEST_F(OutputFolderTest, UnfinishedWorkStaysButAnEmptyFolderDoesNot) {
  { expect_ok(create()); }
  EXPECT_FALSE(fs::exists(partial_));
  { put(create()->path() / "block0", "x"); }
  EXPECT_TRUE(fs::exists(partial_ / "block0"));
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(OutputFolderTest, ClearEmptiesAFolderThatIsStillInUse) {
  interrupted_run();
  auto folder = create(false, true);
  expect_ok(folder);
  fs::create_directories(folder->path() / "sub" / "deep");
  expect_ok(folder->clear());
  EXPECT_EQ(entries_in(partial_), 0);
  put(folder->path() / "config.json", "{}");
  expect_ok(folder->finish());
  EXPECT_EQ(entries_in(out_), 1);
}

TEST_F(OutputFolderTest, DiscardRemovesEverything) {
  auto folder = create();
  expect_ok(folder);
  put(folder->path() / "a", "x");
  folder->discard();
  EXPECT_EQ(entries_in(folder_.path()), 0);
}

TEST_F(OutputFolderTest, TwoWritersAreNotAllowed) {
  auto first = create();
  expect_ok(first);
  put(first->path() / "config.json", "first");
  expect_error(create(), ErrorCode::failure, "another process is writing", partial_.string());
  expect_error(create(true, true), ErrorCode::failure, "another process");
  EXPECT_EQ(get(partial_ / "config.json"), "first");
  expect_ok(first->finish());
  expect_ok(create(true));
}

TEST_F(OutputFolderTest, AnotherProcessHoldsTheLockToo) {
  int ready[2], done[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(done), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto folder = create();
    char c = folder ? 'y' : 'n';
    (void)!::write(ready[1], &c, 1);
    (void)!::read(done[0], &c, 1);
    ::_exit(0);
  }
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  EXPECT_EQ(c, 'y');
  expect_error(create(), ErrorCode::failure, "another process is writing");
  ASSERT_EQ(::write(done[1], &c, 1), 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  expect_ok(create());
  for (int descriptor : {ready[0], ready[1], done[0], done[1]}) ::close(descriptor);
}

TEST_F(OutputFolderTest, UnusableParents) {
  expect_error(OutputFolder::create(folder_ / "absent" / "out", false, false), ErrorCode::io, "cannot create",
               "No such file");
  put(folder_ / "file", "x");
  expect_error(OutputFolder::create(folder_ / "file" / "out", false, false), ErrorCode::io, "Not a directory");
  expect_error(OutputFolder::create("/proc/nibble-out", false, false), ErrorCode::io, "cannot create");
  put(folder_ / "taken.partial", "x");
  expect_error(OutputFolder::create(folder_ / "taken", false, false), ErrorCode::io, "taken.partial",
               "Not a directory");
}

TEST_F(OutputFolderTest, AReadOnlyParentIsAnIoError) {
  fs::permissions(folder_.path(), fs::perms::owner_read | fs::perms::owner_exec);
  const pid_t child = ::fork();
  if (child == 0) {  // permissions do not bind root, so that the child becomes nobody
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(2);
    auto folder = create();
    ::_exit(!folder && folder.error().code == ErrorCode::io ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  fs::permissions(folder_.path(), fs::perms::owner_all);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(OutputFolderTest, ALinkIsNotFollowedIntoAnotherFolder) {
  fs::create_directory(folder_ / "precious");
  put(folder_ / "precious" / "data", "x");
  fs::create_directory_symlink("precious", partial_);
  EXPECT_FALSE(create().has_value());
  EXPECT_EQ(get(folder_ / "precious" / "data"), "x");
}

TEST_F(OutputFolderTest, NamesThatAreNoFolders) {
  for (const char* name : {"", ".", "..", "/", "a/..", "./"}) {
    SCOPED_TRACE(name);
    expect_error(OutputFolder::create(name, true, false), ErrorCode::usage, "cannot be an output folder");
  }
  auto slash = OutputFolder::create(out_.string() + "/", false, false);
  expect_ok(slash);
  EXPECT_EQ(slash->path(), partial_);
}

TEST_F(OutputFolderTest, SpaceIsAskedForBeforehand) {
  auto folder = create();
  expect_ok(folder);
  expect_ok(folder->require_space(0));
  expect_ok(folder->require_space(1000));
  expect_error(folder->require_space(INT64_MAX), ErrorCode::resources, out_.string(), "are needed", "are free");
}

}  // namespace
}  // namespace nibble
