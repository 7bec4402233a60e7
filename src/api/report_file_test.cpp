#include <gtest/gtest.h>
#include <nibble/report.h>

#include "core/testing.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class ReportFile : public ::testing::Test {
 protected:
  // The error's code, or 0.
  int write(const fs::path& file, bool force = false) const {
    const Status asked = may_write_page(file, force), done = write_page(report_, file, force);
    EXPECT_EQ(asked.has_value(), done.has_value()) << file;
    if (done) return 0;
    EXPECT_EQ(asked ? "" : asked.error().message, done.error().message);
    return static_cast<int>(done.error().code);
  }

  const ModelReport report_ = {"{}", "<!doctype html>\n<p>new</p>\n"};
  testing::TemporaryFolder folder_;
};

TEST_F(ReportFile, IsWrittenAndReplaced) {
  const fs::path file = folder_ / "report.html";
  EXPECT_EQ(write(file), 0);
  EXPECT_EQ(testing::get(file), report_.html);
  testing::put(file, "<!doctype html>\nan older page");
  EXPECT_EQ(write(file), 0);
  EXPECT_EQ(testing::get(file), report_.html);
  testing::put(file, "");
  EXPECT_EQ(write(file), 0);
  EXPECT_EQ(testing::get(file), report_.html);
  EXPECT_EQ(testing::entries_in(file.parent_path()), 1);
}

TEST_F(ReportFile, ReplacesNothingElseUnlessForced) {
  const fs::path file = folder_ / "model.safetensors";
  for (const std::string text : {"weights", "<!doc"}) {
    testing::put(file, text);
    EXPECT_EQ(write(file), 2);
    EXPECT_EQ(testing::get(file), text);
  }
  EXPECT_EQ(write(file, true), 0);
  EXPECT_EQ(testing::get(file), report_.html);
}

TEST_F(ReportFile, NeedsAFolderAndIsNone) {
  EXPECT_EQ(write(folder_ / "absent" / "report.html"), 7);
  EXPECT_EQ(write(folder_ / "."), 2);
  EXPECT_EQ(write(folder_ / ".", true), 2);
}

}  // namespace
}  // namespace nibble
