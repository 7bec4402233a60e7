// Shows progress on standard error: on a terminal as one line that is rewritten, elsewhere as a line now and then.
#pragma once

#include <nibble/progress.h>

#include <chrono>
#include <string>

#include "session.h"

namespace nibble::cli {

class ProgressLine {
 public:
  // Elsewhere than on a terminal, a line is printed when the first part of Progress::what (up to a comma, as in
  // "block 3 of 32, gptq down") changes and at least `least_step` of the whole was done since the last line; and when
  // the whole is done.
  explicit ProgressLine(const Session& session, double least_step = 0);
  ~ProgressLine();  // wipes the line off the terminal
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // The callback to hand to the library; empty when no progress is wanted. Must not outlive this object.
  ProgressCallback callback();

 private:
  void show(const Progress& progress);
  void rewrite(const Progress& progress);
  void append(const Progress& progress);

  bool wanted_, terminal_, drawn_ = false;
  double least_step_, last_done_ = -1;
  std::string last_part_;
  std::chrono::steady_clock::time_point last_time_;
};

}  // namespace nibble::cli
