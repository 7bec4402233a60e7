#include <gtest/gtest.h>
#include <nibble/bench.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace nibble {
namespace {

namespace fs = std::filesystem;

RooflineOptions small_run(const fs::path& plot) {
  RooflineOptions options;
  options.threads = 1;
  options.quick = true;
  options.kernels = "quantize*";
  options.plot = plot;
  return options;
}

// A folder that is removed while the machine is measured.
TEST(Roofline, ReportOutlivesAPlotThatCannotBeWritten) {
  const fs::path folder = fs::temp_directory_path() / ("nibble-roofline-test-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  RooflineOptions options = small_run(folder / "plot.svg");
  bool empty = false;
  options.progress = [&](const Progress&) {
    empty = empty || fs::is_empty(folder);
    fs::remove_all(folder);
  };
  const auto report = roofline(options);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_FALSE(report->quantization.empty());
  ASSERT_FALSE(report->plot);
  EXPECT_EQ(report->plot.error().code, ErrorCode::io);
  EXPECT_NE(report->plot.error().message.find("plot.svg"), std::string::npos) << report->plot.error().message;
  EXPECT_TRUE(empty);  // an interrupted run leaves nothing behind
}

TEST(Roofline, APlotThatCannotBeMadeFailsBeforeMeasuring) {
  RooflineOptions options = small_run("/proc/plot.svg");
  bool begun = false;
  options.progress = [&](const Progress&) { begun = true; };
  const auto report = roofline(options);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, ErrorCode::io);
  EXPECT_FALSE(begun);
}

}  // namespace
}  // namespace nibble
