// nibble generate: continues a prompt.
#include <memory>

#include "commands.h"
#include "options.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nThe text appears as it is made. Without --temp the most likely token is taken each time (greedy); with it the\n"
    "next token is drawn after the filters top-k, top-p and min-p, the same for the same seed on every machine.\n"
    "\nExamples:\n"
    "  nibble generate opt-125m-quik --prompt \"Once upon a time\"\n"
    "  nibble generate opt-125m-quik -p \"Dear Sir,\" --temp 0.8 --top-p 0.95 --seed 7 --max-tokens 200\n"
    "  nibble generate opt-125m-quik --file prompt.txt --stop \"###\" --json\n"
    "  echo \"The capital of France is\" | nibble generate opt-125m-quik -\n";

struct Options {
  RunOptions run;
  GenerateOptions generate;
  std::string prompt, file, dash;
  bool has_prompt = false;
  bool no_special_tokens = false;
};

// From --prompt, --file or standard input; exactly one of them.
Result<std::string> prompt_of(const Options& options) {
  const int sources = (options.has_prompt ? 1 : 0) + (options.file.empty() ? 0 : 1) + (options.dash.empty() ? 0 : 1);
  if (sources != 1)
    return failure(ErrorCode::usage, "give the prompt once: with --prompt TEXT, --file FILE, or - for standard input");
  if (!options.dash.empty() && options.dash != "-")
    return failure(ErrorCode::usage, fmt::format("unexpected \"{}\"; a prompt is given with --prompt", options.dash));
  if (options.has_prompt && options.prompt != "-") return options.prompt;
  return read_file(options.file.empty() ? "-" : options.file);
}

double rate(double tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }
double prefill_rate(const GenerateReport& report) {
  return rate(static_cast<double>(report.prompt_tokens), report.prefill_seconds);
}
// The first generated token comes out of the prefill.
double decode_rate(const GenerateReport& report) {
  return rate(static_cast<double>(report.token_ids.size()) - 1, report.decode_seconds);
}

Json report_json(const GenerateReport& report) {
  return {{"text", report.text},
          {"token_ids", report.token_ids},
          {"prompt_tokens", report.prompt_tokens},
          {"generated_tokens", report.token_ids.size()},
          {"stop_reason", name_of(report.reason)},
          {"prefill_tokens_per_second", prefill_rate(report)},
          {"decode_tokens_per_second", decode_rate(report)}};
}

// Streams to standard output; ends the generation when that fails, and says why afterwards.
Result<GenerateReport> stream(const LanguageModel& model, const std::string& prompt, const Options& options) {
  Status printed;
  const auto report = model.generate(prompt, options.generate, [&](std::string_view text) {
    printed = print(text);
    return printed.has_value();
  });
  if (!printed) return tl::unexpected(printed.error());
  return report;
}

Status run(Options& options, const Session& session) {
  const auto prompt = prompt_of(options);
  if (!prompt) return error_of(prompt);
  options.generate.add_special_tokens = !options.no_special_tokens;
  const auto model = load(options.run);
  if (!model) return error_of(model);
  Json explained;
  if (const Status status = explain_first(options.run, *model, session, explained); !status) return status;
  const auto report = session.json ? model->generate(*prompt, options.generate) : stream(*model, *prompt, options);
  if (!report) return error_of(report);
  if (session.json) {
    Json out = report_json(*report);
    if (!explained.is_null()) out["explain"] = std::move(explained);
    return print_json(out);
  }
  if (const Status status = print("\n"); !status) return status;
  session.note(fmt::format("{} prompt tokens at {:.1f} tokens/s, {} generated at {:.1f} tokens/s ({})",
                           report->prompt_tokens, prefill_rate(*report), report->token_ids.size(), decode_rate(*report),
                           name_of(report->reason)));
  return {};
}

void add_prompt_options(CLI::App& command, Options& options) {
  command.add_option("-p,--prompt", options.prompt, "The prompt; - reads standard input")
      ->type_name("TEXT")
      ->each([&options](const std::string&) { options.has_prompt = true; });
  command.add_option("-f,--file", options.file, "File with the prompt; - reads standard input")->type_name("FILE");
  command.add_option("dash", options.dash, "A single - reads the prompt from standard input")->type_name("-");
  command.add_flag("--no-special-tokens", options.no_special_tokens, "Put nothing such as <s> before the prompt");
}

void add_sampling_options(CLI::App& command, GenerateOptions& options) {
  command.add_option("-n,--max-tokens", options.max_tokens, "Most tokens to generate")
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--temp,--temperature", options.temperature, "Temperature; 0: greedy")
      ->type_name("T")
      ->capture_default_str();
  command.add_option("--top-k", options.top_k, "Only the K most likely tokens; 0: off")
      ->type_name("K")
      ->capture_default_str();
  command.add_option("--top-p", options.top_p, "Only the most likely tokens that together reach P; 1: off")
      ->type_name("P")
      ->capture_default_str();
  command.add_option("--min-p", options.min_p, "Only tokens at least P times as likely as the likeliest; 0: off")
      ->type_name("P")
      ->capture_default_str();
  add_seed_option(command, options.seed, "Seed of the draws");
  command.add_option("--stop", options.stop, "Text that ends the generation; may be given several times")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  command.add_flag("--ignore-eos", options.ignore_eos, "Go on after an end-of-sequence token");
}

}  // namespace

void add_generate(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("generate", "Continue a prompt");
  auto options = std::make_shared<Options>();
  add_run_options(*command, options->run);
  add_prompt_options(*command, *options);
  add_sampling_options(*command, options->generate);
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
