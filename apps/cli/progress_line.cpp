#include "progress_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace nibble::cli {
namespace {

constexpr auto kRedrawEvery = std::chrono::milliseconds(100);
constexpr size_t kBarWidth = 24;
constexpr double kWhole = 1 - 1e-9;  // sums of parts may fall short of 1 by rounding

size_t terminal_width() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 80;
  return size.ws_col;
}

std::string bar(double done) {
  const auto filled = static_cast<size_t>(std::clamp(done, 0.0, 1.0) * static_cast<double>(kBarWidth));
  return "[" + std::string(filled, '#') + std::string(kBarWidth - filled, '.') + "]";
}

std::string describe(const Progress& progress) {
  std::string text = fmt::format("{:3.0f} %  {}", 100 * progress.done, progress.what);
  if (progress.seconds_left >= 0 && progress.done < 1)
    text += fmt::format("  {} left", human_seconds(progress.seconds_left));
  return text;
}

}  // namespace

ProgressLine::ProgressLine(const Session& session, double least_step)
    : wanted_(!session.quiet && !session.no_progress),
      terminal_(::isatty(STDERR_FILENO) == 1),
      least_step_(least_step) {}

ProgressLine::~ProgressLine() {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
}

ProgressCallback ProgressLine::callback() {
  if (!wanted_) return {};
  return [this](const Progress& progress) { show(progress); };
}

void ProgressLine::show(const Progress& progress) { terminal_ ? rewrite(progress) : append(progress); }

void ProgressLine::rewrite(const Progress& progress) {
  const auto now = std::chrono::steady_clock::now();
  if (drawn_ && now - last_time_ < kRedrawEvery) return;
  last_time_ = now;
  drawn_ = true;
  std::string line = bar(progress.done) + " " + describe(progress);
  line.resize(std::min(line.size(), terminal_width() - 1));
  fmt::print(stderr, "\r{}\x1b[K", line);
  std::fflush(stderr);
}

void ProgressLine::append(const Progress& progress) {
  const std::string part = progress.what.substr(0, progress.what.find(','));
  const bool whole = progress.done >= kWhole;
  if (!whole && (part == last_part_ || progress.done < last_done_ + least_step_)) return;
  last_part_ = part;
  last_done_ = progress.done;
  fmt::print(stderr, "{}\n", describe(progress));
}

}  // namespace nibble::cli
