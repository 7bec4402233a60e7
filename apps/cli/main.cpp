// The program `nibble`: one subcommand per file, all of them thin layers over the public library.
#include <nibble/nibble.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string_view>

#include "commands.h"
#include "session.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nExamples:\n"
    "  nibble quantize opt-125m -o opt-125m-quik --recipe quik-4b --calibration text.txt\n"
    "  nibble perplexity opt-125m-quik --text test.txt\n"
    "  nibble generate opt-125m-quik --prompt \"Once upon a time\"\n"
    "\n"
    "`nibble COMMAND --help` explains a command. Exit codes: 0 fine, 1 failure at run time, 2 usage, recipe or\n"
    "impossible budget, 3 corrupt or mismatching files, 4 unsupported model, format or machine, 5 out of memory or\n"
    "disk, 6 verification failed, 7 other input or output error.\n";

Status print_version(bool json) {
  const auto found = version();
  if (!found) return error_of(found);
  if (json)
    return print_json({{"version", found->version},
                       {"commit", found->commit},
                       {"compiler", found->compiler},
                       {"isa", found->isa},
                       {"detected_isa", found->detected}});
  const std::string commit = found->commit.empty() ? "" : fmt::format(" ({})", found->commit);
  const std::string forced = found->isa == found->detected ? "" : fmt::format(", of {}", found->detected);
  return print(fmt::format("nibble {}{}\ncompiler: {}\ninstruction set: {}{}\n", found->version, commit,
                           found->compiler, found->isa, forced));
}

// The subcommand that the user was typing, or the program.
const CLI::App& innermost(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  return *at;
}

std::string command_line_of(const CLI::App& app) {
  std::string out;
  for (const CLI::App* at = &app; at != nullptr; at = at->get_parent())
    out = at->get_name() + (out.empty() ? "" : " ") + out;
  return out;
}

Error usage_error(const CLI::App& program, const CLI::ParseError& thrown) {
  return {ErrorCode::usage,
          fmt::format("{}\nRun `{} --help` for what is possible.", thrown.what(), command_line_of(innermost(program)))};
}

int run(int argc, char** argv) {
  Session session;
  CLI::App program("Quantizes large language models to a few bits and runs them on CPUs.", "nibble");
  bool wants_version = false;
  program.add_flag("--version", wants_version, "Version, commit, compiler and instruction set");
  program.add_flag("--json", session.json, "With --version: print a JSON object");
  program.footer(kFooter);
  program.require_subcommand(0, 1);
  program.get_formatter()->column_width(36);
  for (auto* add : kCommands) add(program, session);
  const bool json = std::any_of(argv, argv + argc, [](std::string_view word) { return word == "--json"; });
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& request) {
    return program.exit(request);  // --help
  } catch (const CLI::ParseError& error) {
    return report(usage_error(program, error), json);
  }
  if (wants_version) session.action = [&] { return print_version(session.json); };
  if (!session.action)
    return report({ErrorCode::usage, "no command is given\nRun `nibble --help` for what is possible."}, json);
  const Status status = session.action();
  return status ? session.exit_code : report(status.error(), json);
}

}  // namespace
}  // namespace nibble::cli

int main(int argc, char** argv) {
  try {
    return nibble::cli::run(argc, argv);
  } catch (const std::bad_alloc&) {
    return nibble::cli::report({nibble::ErrorCode::resources, "out of memory"}, false);
  } catch (const std::exception& error) {
    return nibble::cli::report({nibble::ErrorCode::failure, error.what()}, false);
  }
}
