// nibble bench: how fast a model runs.
#include <memory>

#include "commands.h"
#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nPrefill reads the prompt in chunks of 512 tokens; decoding adds one token at a time after it. One run is not\n"
    "counted; of the others the median is reported, and the quartiles between which half of them lie.\n"
    "\nExamples:\n"
    "  nibble bench opt-125m-quik\n"
    "  nibble bench opt-125m-quik --prefill 2048 --decode 64 --repetitions 9 -o markdown\n"
    "  NIBBLE_ISA=avx2 nibble bench opt-125m-quik --explain --threads 4 --json\n";

struct Options {
  RunOptions run;
  BenchOptions bench;
  std::string format = "table";
};

struct Row {
  std::string_view what;
  int64_t tokens;
  const Rate& rate;
};

std::array<Row, 2> rows_of(const BenchReport& report) {
  return {Row{"prefill", report.prompt_tokens, report.prefill}, Row{"decode", report.generated_tokens, report.decode}};
}

std::string table(const BenchReport& report) {
  std::string out =
      fmt::format("{:<8} {:>7} {:>12} {:>12} {:>12}\n", "", "tokens", "tokens/s", "quartile 1", "quartile 3");
  for (const Row& row : rows_of(report))
    out += fmt::format("{:<8} {:>7} {:>12.2f} {:>12.2f} {:>12.2f}\n", row.what, row.tokens, row.rate.median,
                       row.rate.low, row.rate.high);
  return out + fmt::format("{} threads, {}, {} of weights in memory, {} repetitions\n", report.threads, report.isa,
                           human_bytes(report.packed_bytes), report.repetitions);
}

std::string markdown(const BenchReport& report, const std::string& model) {
  std::string out =
      "| model | test | tokens | threads | ISA | tokens/s (median) | quartiles |\n"
      "|---|---|---:|---:|---|---:|---:|\n";
  for (const Row& row : rows_of(report))
    out += fmt::format("| {} | {} | {} | {} | {} | {:.2f} | {:.2f} - {:.2f} |\n", model, row.what, row.tokens,
                       report.threads, report.isa, row.rate.median, row.rate.low, row.rate.high);
  return out;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

std::string csv(const BenchReport& report, const std::string& model) {
  std::string out = "model,test,tokens,threads,isa,tokens_per_second,quartile_1,quartile_3\n";
  for (const Row& row : rows_of(report))
    out += fmt::format("{},{},{},{},{},{:.4f},{:.4f},{:.4f}\n", quoted(model), row.what, row.tokens, report.threads,
                       report.isa, row.rate.median, row.rate.low, row.rate.high);
  return out;
}

Json report_json(const BenchReport& report, const std::string& model) {
  return {{"model", model},
          {"prompt_tokens", report.prompt_tokens},
          {"generated_tokens", report.generated_tokens},
          {"repetitions", report.repetitions},
          {"threads", report.threads},
          {"isa", report.isa},
          {"packed_bytes", report.packed_bytes},
          {"prefill_tokens_per_second", report.prefill.median},
          {"prefill_quartiles", {report.prefill.low, report.prefill.high}},
          {"prefill_measured", report.prefill.measured},
          {"decode_tokens_per_second", report.decode.median},
          {"decode_quartiles", {report.decode.low, report.decode.high}},
          {"decode_measured", report.decode.measured}};
}

Result<BenchReport> measure(const LanguageModel& model, const Options& options, const Session& session) {
  ProgressLine progress(session);
  BenchOptions bench = options.bench;
  bench.progress = progress.callback();
  return model.bench(bench);
}

Status run(const Options& options, Session& session) {
  if (options.format == "json") session.json = true;
  const auto model = load(options.run);
  if (!model) return error_of(model);
  Json explained;
  if (const Status status = explain_first(options.run, *model, session, explained); !status) return status;
  const auto report = measure(*model, options, session);
  if (!report) return error_of(report);
  if (session.json) {
    Json out = report_json(*report, options.run.model);
    if (!explained.is_null()) out["explain"] = std::move(explained);
    return print_json(out);
  }
  if (options.format == "markdown") return print(markdown(*report, options.run.model));
  if (options.format == "csv") return print(csv(*report, options.run.model));
  return print(table(*report));
}

}  // namespace

void add_bench(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("bench", "Measure prefill and decoding speed");
  auto options = std::make_shared<Options>();
  add_run_options(*command, options->run);
  command
      ->add_option("--prefill", options->bench.prompt_tokens, "Tokens of the prompt, capped by the model's positions")
      ->type_name("N")
      ->capture_default_str();
  command->add_option("-n,--decode", options->bench.generated_tokens, "Tokens to decode")
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--repetitions", options->bench.repetitions, "Runs that are counted")
      ->type_name("N")
      ->capture_default_str();
  command->add_option("-o,--output", options->format, "Form of the result")
      ->check(CLI::IsMember({"table", "markdown", "csv", "json"}))
      ->type_name("FORM")
      ->capture_default_str();
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
