// Runs a program as a user would, for tests.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/testing.h"

namespace nibble::testing {

using Arguments = std::vector<std::string>;
using Environment = std::map<std::string, std::string>;

struct Outcome {
  int code = -1;  // exit code, or 128 + the signal that ended it
  std::string out, err;
  Json json;  // of standard output, null when it is none
};

inline void redirect(const std::string& path, int flags, int to) {
  const int descriptor = ::open(path.c_str(), flags, 0600);
  if (descriptor < 0 || ::dup2(descriptor, to) < 0) ::_exit(126);
}

// `folder` gets files with what the program writes to its standard streams.
inline Outcome run_program(const std::string& program, const Arguments& arguments, const std::filesystem::path& folder,
                           const Environment& environment = {}, const std::string& input = "/dev/null") {
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const std::string out = folder / "stdout", err = folder / "stderr";
  const pid_t child = ::fork();
  if (child == 0) {
    redirect(input, O_RDONLY, 0);
    redirect(out, O_WRONLY | O_CREAT | O_TRUNC, 1);
    redirect(err, O_WRONLY | O_CREAT | O_TRUNC, 2);
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  Outcome outcome;
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.out = get(out);
  outcome.err = get(err);
  if (auto parsed = parse_json(outcome.out, "standard output")) outcome.json = *std::move(parsed);
  return outcome;
}

}  // namespace nibble::testing
