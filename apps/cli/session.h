// What all subcommands share: the switches about output, and how results, notes and errors are printed.
//
// The result goes to standard output, as text or (--json) as one JSON object; everything that is said to a human on
// the way (plans, progress, notes, errors) goes to standard error.
#pragma once

#include <fmt/format.h>
#include <nibble/result.h>
#include <nibble/units.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace nibble::cli {

using Json = nlohmann::ordered_json;

struct Session {
  bool json = false;
  bool quiet = false;  // no notes and no progress
  bool no_progress = false;
  std::function<Status()> action;  // set by the subcommand that was chosen
  int exit_code = 0;               // of a run without an error whose result is bad news (verify)

  // A line to standard error, unless the user wants quiet.
  void note(std::string_view line) const;
};

// Adds --json, --quiet and --no-progress to a subcommand, and the function that it runs.
void add_output_options(CLI::App& command, Session& session);
void set_action(CLI::App& command, Session& session, std::function<Status()> action);

// Standard output. An error (`resources` for a full disk, else `io`) when it cannot be written.
Status print(std::string_view text);
Status print_json(const Json& value);

// "corrupt", "io", ...
std::string_view name_of(ErrorCode code);
// Prints the error, as an object {"error": {"code", "name", "message"}} to standard output when `json` is set, and
// returns the program's exit code.
int report(const Error& error, bool json);

// "4.1 s", "2 min 5 s", "1 h 10 min".
std::string human_seconds(double seconds);

template <class T>
tl::unexpected<Error> error_of(const Result<T>& result) {
  return tl::unexpected(result.error());
}
inline tl::unexpected<Error> failure(ErrorCode code, std::string message) {
  return tl::unexpected(Error{code, std::move(message)});
}

}  // namespace nibble::cli
