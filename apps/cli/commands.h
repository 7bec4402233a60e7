// The subcommands: one function, one file each. Adding one is adding a row.
#pragma once

#include <CLI/CLI.hpp>

#include "session.h"

namespace nibble::cli {

void add_quantize(CLI::App& program, Session& session);
void add_search(CLI::App& program, Session& session);
void add_perplexity(CLI::App& program, Session& session);
void add_compare(CLI::App& program, Session& session);
void add_eval(CLI::App& program, Session& session);
void add_generate(CLI::App& program, Session& session);
void add_tokenize(CLI::App& program, Session& session);
void add_inspect(CLI::App& program, Session& session);
void add_dequantize(CLI::App& program, Session& session);
void add_formats(CLI::App& program, Session& session);
void add_bench(CLI::App& program, Session& session);
void add_recipe(CLI::App& program, Session& session);
void add_random(CLI::App& program, Session& session);
void add_report(CLI::App& program, Session& session);
void add_verify(CLI::App& program, Session& session);

// In the order of the help.
inline constexpr void (*kCommands[])(CLI::App&, Session&) = {
    add_quantize, add_search,  add_perplexity, add_compare,  add_eval,   add_report,  add_verify, add_generate,
    add_bench,    add_inspect, add_dequantize, add_tokenize, add_recipe, add_formats, add_random,
};

}  // namespace nibble::cli
