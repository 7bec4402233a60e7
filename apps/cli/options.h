// Options that several subcommands have, and the reading of their values.
#pragma once

#include <nibble/language_model.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "session.h"

namespace nibble::cli {

// MODEL, also as -m and --model.
// For options that an empty shell variable must not switch off.
inline const CLI::Validator kNotEmpty([](const std::string& value) { return value.empty() ? "nothing is given" : ""; },
                                      "", "not empty");

void add_model_option(CLI::App& command, std::string& model, const std::string& kind = "Hugging Face or quantized");
void add_threads_option(CLI::App& command, int& threads);
// -s and --seed: a whole number that is not negative.
void add_seed_option(CLI::App& command, uint64_t& seed, const std::string& help);

// What load() needs, as typed.
struct RunOptions {
  std::string model, cache, weights, activations;
  int threads = 0;
  bool explain = false;
  bool packed_cache = false;
};
void add_type_options(CLI::App& command, RunOptions& options);  // --cache, --weights and --activations
void add_run_options(CLI::App& command, RunOptions& options);   // all of them
Result<LanguageModel> load(const RunOptions& options);

// --protocol, --window, --stride and --preset.
void add_protocol_options(CLI::App& command, TextProtocol& protocol);
// "protocol windows, windows of 256", with the stride and the preset where there are any.
std::string describe(const TextProtocol& protocol);

// The types that --cache, --weights and --activations name, as far as they were given.
Result<LoadOptions> load_options(const RunOptions& options);

// The kernels of every layer as text for --explain; layers that choose alike are put together.
Result<std::string> explanation(const LanguageModel& model);
// The same as JSON: [{"layer", "prefill", "decode"}, ...].
Result<Json> explanation_json(const LanguageModel& model);

// With --explain, before the work: prints the explanation to standard error, or with --json puts it into `json`.
Status explain_first(const RunOptions& options, const LanguageModel& model, const Session& session, Json& json);

// "3G", "512M", "1.5GiB", "800MB", "4096": K, M, G, T and KiB .. count in powers of 1024, KB .. in powers of 1000.
Result<int64_t> parse_size(const std::string& text);

// A whole file, or standard input for "-".
Result<std::string> read_file(const std::string& path);
// The same for the text to be measured on; `usage` when it is empty.
Result<std::string> read_text(const std::string& path);

}  // namespace nibble::cli
