// nibble perplexity: how well a model predicts a text.
#include <memory>

#include "commands.h"
#include "options.h"
#include "progress_line.h"

namespace nibble::cli {
namespace {

constexpr const char* kFooter =
    "\nProtocol \"windows\": the whole text is tokenised once with the tokenizer's own special tokens and cut into\n"
    "windows that do not overlap; the incomplete last one is dropped; every token of a window but the first is\n"
    "predicted. The perplexity is exp of the mean negative log-likelihood (nll, in nats per predicted token).\n"
    "\nExamples:\n"
    "  nibble perplexity opt-125m --text wikitext-test.txt\n"
    "  nibble perplexity opt-125m-quik --text wikitext-test.txt --window 512 --json\n"
    "  cat book.txt | nibble perplexity opt-125m --text -\n";

struct Options {
  RunOptions run;
  std::string text;
  int64_t window = 0;
};

double rate_of(const PerplexityReport& report) {
  const auto tokens = static_cast<double>(report.window * report.windows);
  return report.seconds > 0 ? tokens / report.seconds : 0;
}

Json report_json(const PerplexityReport& report) {
  return {{"perplexity", report.perplexity}, {"nll", report.nll},         {"standard_error", report.standard_error},
          {"tokens", report.tokens},         {"protocol", "windows"},     {"window", report.window},
          {"windows", report.windows},       {"seconds", report.seconds}, {"tokens_per_second", rate_of(report)}};
}

std::string report_text(const PerplexityReport& report) {
  return fmt::format(
      "perplexity {:.4f}   nll {:.5f} +- {:.5f} nats per token\n{} tokens predicted in {} windows of {}, {:.1f} "
      "tokens/s\n",
      report.perplexity, report.nll, report.standard_error, report.tokens, report.windows, report.window,
      rate_of(report));
}

Result<PerplexityReport> measure(const LanguageModel& model, const std::string& text, const Options& options,
                                 const Session& session) {
  ProgressLine progress(session, 0.1);
  return model.perplexity(text, {options.window, progress.callback()});
}

Status run(const Options& options, const Session& session) {
  const auto text = read_file(options.text);
  if (!text) return error_of(text);
  const auto model = load(options.run);
  if (!model) return error_of(model);
  Json explained;
  if (const Status status = explain_first(options.run, *model, session, explained); !status) return status;
  const auto report = measure(*model, *text, options, session);
  if (!report) return error_of(report);
  if (!session.json) return print(report_text(*report));
  Json out = report_json(*report);
  if (!explained.is_null()) out["explain"] = std::move(explained);
  return print_json(out);
}

}  // namespace

void add_perplexity(CLI::App& program, Session& session) {
  CLI::App* command = program.add_subcommand("perplexity", "Measure how well a model predicts a text");
  auto options = std::make_shared<Options>();
  add_run_options(*command, options->run);
  command->add_option("--text,-f,--file", options->text, "Text file, or - for standard input")
      ->required()
      ->type_name("FILE");
  command->add_option("-w,--window", options->window, "Tokens per window; 0: min(2048, the model's positions)")
      ->type_name("N")
      ->capture_default_str();
  add_output_options(*command, session);
  command->footer(kFooter);
  set_action(*command, session, [options, &session] { return run(*options, session); });
}

}  // namespace nibble::cli
