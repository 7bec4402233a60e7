#include "session.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace nibble::cli {
namespace {

std::string dump(const Json& value) { return value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

tl::unexpected<Error> output_failure(int error_number) {
  const bool full = error_number == ENOSPC || error_number == EDQUOT;
  return failure(full ? ErrorCode::resources : ErrorCode::io,
                 fmt::format("cannot write to standard output: {}", std::strerror(error_number)));
}

}  // namespace

void Session::note(std::string_view line) const {
  if (!quiet) fmt::print(stderr, "{}\n", line);
}

void add_output_options(CLI::App& command, Session& session) {
  command.add_flag("--json", session.json, "Print one JSON object to standard output");
  command.add_flag("-q,--quiet", session.quiet, "No notes and no progress on standard error");
  command.add_flag("--no-progress", session.no_progress, "No progress on standard error");
}

void set_action(CLI::App& command, Session& session, std::function<Status()> action) {
  command.callback([&session, action = std::move(action)] { session.action = action; });
}

Status print(std::string_view text) {
  errno = 0;
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!written || std::fflush(stdout) != 0) return output_failure(errno);
  return {};
}

Status print_json(const Json& value) { return print(dump(value)); }

std::string_view name_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::failure: return "failure";
    case ErrorCode::usage: return "usage";
    case ErrorCode::corrupt: return "corrupt";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::resources: return "resources";
    case ErrorCode::verification: return "verification";
    case ErrorCode::io: return "io";
  }
  return "failure";
}

int report(const Error& error, bool json) {
  const int code = static_cast<int>(error.code);
  if (json) {
    const Json object = {{"error", {{"code", code}, {"name", name_of(error.code)}, {"message", error.message}}}};
    if (print_json(object)) return code;
  }
  fmt::print(stderr, "nibble: {}\n", error.message);
  return code;
}

std::string human_seconds(double seconds) {
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace nibble::cli
